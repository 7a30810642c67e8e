use super::*;
use crate::error::Error;

fn sampler(temperature: f64, top_k: Option<usize>, top_p: f64, seed: u64) -> Sampler {
    Sampler::new(SamplerOptions { temperature, top_k, top_p, seed, ..Default::default() }).unwrap()
}

/// How often each of four tokens with p = 0.4, 0.3, 0.2, 0.1 is drawn in 40,000.
fn frequencies(mut sampler: Sampler) -> [f64; 4] {
    let logits = [0.2_f32, 0.4, 0.1, 0.3].map(f32::ln);
    let mut counts = [0.0; 4];
    for _ in 0..40_000 {
        counts[sampler.sample(&logits) as usize] += 1.0 / 40_000.0;
    }
    counts
}

#[test]
fn tokens_are_as_frequent_as_they_are_probable() {
    struct Case {
        temperature: f64,
        top_k: Option<usize>,
        top_p: f64,
        expected: [f64; 4],
    }
    let sqrt = [0.2_f64, 0.4, 0.1, 0.3].map(f64::sqrt);
    let sum: f64 = sqrt.iter().sum();
    let cases = [
        Case { temperature: 1.0, top_k: None, top_p: 1.0, expected: [0.2, 0.4, 0.1, 0.3] },
        Case { temperature: 2.0, top_k: None, top_p: 1.0, expected: sqrt.map(|p| p / sum) },
        Case { temperature: 0.0, top_k: None, top_p: 1.0, expected: [0., 1., 0., 0.] },
        Case { temperature: 1.0, top_k: Some(2), top_p: 1.0, expected: [0., 4. / 7., 0., 3. / 7.] },
        Case { temperature: 1.0, top_k: Some(9), top_p: 1.0, expected: [0.2, 0.4, 0.1, 0.3] },
        Case { temperature: 1.0, top_k: None, top_p: 0.65, expected: [0., 4. / 7., 0., 3. / 7.] },
        Case { temperature: 1.0, top_k: None, top_p: 0.75, expected: [2. / 9., 4. / 9., 0., 3. / 9.] },
        // Candidates are chosen before the temperature flattens them.
        Case { temperature: 1e6, top_k: None, top_p: 0.65, expected: [0., 0.5, 0., 0.5] },
        Case { temperature: 5.0, top_k: None, top_p: 1e-9, expected: [0., 1., 0., 0.] },
        Case { temperature: 1e-30, top_k: None, top_p: 1.0, expected: [0., 1., 0., 0.] },
        // Beyond the range of f32.
        Case { temperature: 1e-300, top_k: None, top_p: 1.0, expected: [0., 1., 0., 0.] },
        Case { temperature: 1e300, top_k: None, top_p: 1e-300, expected: [0., 1., 0., 0.] },
        Case { temperature: 1e308, top_k: None, top_p: 1.0, expected: [0.25; 4] },
    ];
    for Case { temperature, top_k, top_p, expected } in cases {
        let found = frequencies(sampler(temperature, top_k, top_p, 7));
        for (found, expected) in found.iter().zip(expected) {
            // 40,000 draws: a standard deviation is at most 0.0025.
            assert!((found - expected).abs() < 0.01, "{temperature} {top_k:?} {top_p}: {found} {expected}");
            assert_eq!(*found == 0.0, expected == 0.0);
        }
    }
}

#[test]
fn a_seed_fixes_the_tokens() {
    let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.37).sin()).collect();
    let draw = |seed| {
        let mut sampler = sampler(1.0, None, 1.0, seed);
        (0..16).map(|_| sampler.sample(&logits)).collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    // Recorded: the stream must stay what it is from release to release and from machine to machine.
    assert_eq!(draw(1)[..6], [19, 3, 25, 6, 10, 35]);
}

#[test]
fn logits_that_are_no_numbers_do_no_harm() {
    const NAN: f32 = f32::NAN;
    const INF: f32 = f32::INFINITY;
    let cases: [(&[f32], &[u32]); 6] = [
        (&[NAN, 1.0, NAN], &[1]),
        (&[1.0, INF, NAN, INF], &[1, 3]),
        (&[-INF, -INF, 0.0], &[2]),
        (&[NAN, NAN], &[0, 1]),
        (&[-INF, -INF], &[0, 1]),
        (&[NAN, f32::MIN, f32::MAX], &[2]),
    ];
    for (logits, allowed) in cases {
        for (temperature, top_k, top_p) in
            [(0.0, None, 1.0), (1.0, None, 1.0), (1.0, Some(1), 1.0), (0.7, Some(2), 0.5)]
        {
            let mut sampler = sampler(temperature, top_k, top_p, 3);
            for _ in 0..20 {
                let token = sampler.sample(logits);
                assert!(allowed.contains(&token), "{token} of {logits:?}");
            }
        }
    }
}

#[test]
fn the_cuts_draw_the_tokens_that_they_always_drew() {
    // Recorded before there were other options than these.
    let cases = [
        (1.0, None, 1.0, [20, 4, 27, 8, 12, 31, 24, 5]),
        (0.7, None, 0.9, [31, 27, 35, 4, 4, 39, 8, 27]),
        (2.0, Some(12), 1.0, [20, 4, 27, 12, 12, 35, 24, 8]),
        (1.5, Some(20), 0.8, [8, 27, 12, 4, 31, 39, 8, 4]),
        (1.0, None, 0.95, [8, 27, 39, 4, 31, 43, 35, 4]),
    ];
    let logits: Vec<f32> = (0..50).map(|i| (i * 37 % 50) as f32 / 8.0).collect();
    for (temperature, top_k, top_p, expected) in cases {
        let mut sampler = sampler(temperature, top_k, top_p, 1);
        assert_eq!(expected.map(|_| sampler.sample(&logits)), expected);
    }
}

#[test]
fn what_was_chosen_is_penalized_and_what_was_observed() {
    let logits = [3.0, 2.5, 2.0, -9.0];
    let take = |options: SamplerOptions, observed: &[u32]| {
        let mut sampler = Sampler::new(SamplerOptions { temperature: 0.0, ..options }).unwrap();
        for &token in observed {
            sampler.observe(token);
        }
        // A look at the distribution counts nothing.
        let look = sampler.distribution(&logits);
        let tokens = [(); 6].map(|()| sampler.sample(&logits));
        assert_eq!(look, [(tokens[0], 1.0)]);
        tokens
    };
    let presence = SamplerOptions { presence_penalty: 0.75, ..Default::default() };
    assert_eq!(take(presence.clone(), &[]), [0, 1, 0, 0, 0, 0]);
    assert_eq!(take(presence, &[0, 1, 1]), [0, 0, 0, 0, 0, 0]);
    let frequency = SamplerOptions { frequency_penalty: 0.75, ..Default::default() };
    assert_eq!(take(frequency.clone(), &[]), [0, 1, 0, 2, 1, 0]);
    assert_eq!(take(frequency.clone(), &[0, 0, 7]), [1, 2, 1, 0, 2, 1]);
    // A token is forgotten at once, but for the last.
    let short = SamplerOptions { penalty_decay: 1e-6, ..frequency };
    assert_eq!(take(short, &[0, 0, 0]), [1, 0, 1, 0, 1, 0]);
    let repetition = SamplerOptions { repetition_penalty: 1.25, ..Default::default() };
    assert_eq!(take(repetition, &[]), [0, 1, 0, 0, 0, 0]);
}

#[test]
fn a_fading_count_ends() {
    let options = SamplerOptions { penalty_decay: 0.996, ..Default::default() };
    let mut counts = Counts::default();
    counts.add(0, &options);
    for token in 1..=1723 {
        counts.add(token, &options);
    }
    assert!(counts.iter().next().is_some_and(|(token, count)| token == 0 && count >= 0.001));
    for token in 1724..9000 {
        counts.add(token, &options);
        assert_eq!(counts.iter().next().map(|(token, _)| token), Some(token - 1723));
    }
    assert_eq!(counts.iter().count(), 1724);
}

#[test]
fn a_bias_forbids_and_a_token_is_chosen_all_the_same() {
    const INF: f32 = f32::INFINITY;
    let forbid = |tokens: &[u32], temperature| {
        let logit_bias = tokens.iter().map(|&token| (token, -INF)).chain([(4_000_000_000, 9.0)]).collect();
        Sampler::new(SamplerOptions { temperature, logit_bias, presence_penalty: 0.5, ..Default::default() })
            .unwrap()
    };
    for temperature in [0.0, 1.0] {
        for logits in [[9.0, 8.0, -50.0], [INF, 1.0, f32::NEG_INFINITY], [INF, INF, f32::MIN]] {
            let mut one = forbid(&[0], temperature);
            let mut two = forbid(&[1, 0, 1], temperature);
            for _ in 0..20 {
                assert_ne!(one.sample(&logits), 0);
                // −∞ of the model is no better than −∞ of the caller: then the bias is passed over.
                assert!(two.sample(&logits) == 2 || logits[2] == -INF);
            }
        }
        // Nothing is left: the model's own distribution.
        let mut all = forbid(&[0, 1, 2], temperature);
        assert_eq!(all.sample(&[-50.0, 9.0, -50.0]), 1);
        let of_none = u32::from(temperature > 0.0);
        assert_eq!(all.sample(&[f32::NAN, -INF, f32::NAN]), of_none);
        assert_eq!(all.distribution(&[]), []);
        assert_eq!(all.distribution(&[f32::NAN; 3]), [(0, 1.0)]);
    }
}

#[test]
fn a_typical_set_without_the_likeliest_token_is_drawn_from_at_any_temperature() {
    // Entropy 1.54, and −ln p is 0.92 of token 0 and 1.90 of the others, which are nearer.
    let logits = [0.4_f32, 0.15, 0.15, 0.15, 0.15].map(f32::ln);
    for temperature in [1e-300, 0.5, 1.0, 1e300] {
        for min_p in [0.0, 1.0] {
            let options = SamplerOptions { typical_p: 0.29, min_p, temperature, ..Default::default() };
            assert_eq!(Sampler::new(options).unwrap().distribution(&logits), [(1, 0.5), (2, 0.5)]);
        }
    }
}

#[test]
fn extreme_options_and_logits_give_a_distribution() {
    let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 0.0, -0.0, 1e-40];
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut pick = |n: usize| random.next_u32() as usize % n;
    for _ in 0..20_000 {
        let logits: Vec<f32> = (0..=pick(6)).map(|_| values[pick(values.len())]).collect();
        let options = SamplerOptions {
            temperature: [0.0, 1e-308, 1.0, 1e308][pick(4)],
            top_k: [None, Some(1), Some(3)][pick(3)],
            top_p: [1.0, 5e-324, 0.7][pick(3)],
            min_p: [0.0, 1.0, 5e-324][pick(3)],
            typical_p: [1.0, 5e-324, 0.7][pick(3)],
            repetition_penalty: [1.0, 5e-324, f64::MAX][pick(3)],
            presence_penalty: [0.0, f64::MIN, f64::MAX][pick(3)],
            frequency_penalty: [0.0, f64::MIN, f64::MAX][pick(3)],
            penalty_decay: [1.0, 5e-324, 0.9][pick(3)],
            logit_bias: (0..pick(4))
                .map(|_| (pick(7) as u32, [f32::MIN, f32::MAX, f32::NEG_INFINITY][pick(3)]))
                .collect(),
            sampler: [SamplerKind::Usual, SamplerKind::Rwkv][pick(2)],
            uncounted: (0..pick(3)).map(|_| pick(7) as u32).collect(),
            seed: 0,
        };
        let mut sampler = Sampler::new(options).unwrap();
        for _ in 0..3 {
            let distribution = sampler.distribution(&logits);
            let sum: f64 = distribution.iter().map(|pair| pair.1).sum();
            assert!((sum - 1.0).abs() < 1e-12, "{logits:?} {:?}: {distribution:?}", sampler.options());
            let token = sampler.sample(&logits);
            assert!(
                distribution.iter().any(|pair| pair.0 == token),
                "{token} {logits:?} {:?}",
                sampler.options()
            );
            let none = logits.iter().all(|logit| logit.is_nan() || *logit == f32::NEG_INFINITY);
            assert!(!logits[token as usize].is_nan() || none, "{token} {logits:?} {:?}", sampler.options());
        }
    }
}

#[test]
fn log_probabilities_of_logits_that_are_no_numbers() {
    type Case<'a> = (&'a [f32], f64, &'a [(u32, f64)]);
    const NAN: f32 = f32::NAN;
    const INF: f32 = f32::INFINITY;
    let half = 0.5_f64.ln();
    let impossible = f64::NEG_INFINITY;
    let cases: [Case; 8] = [
        (&[], impossible, &[]),
        (&[0.0], impossible, &[(0, 0.0)]),
        (&[NAN, NAN], impossible, &[]),
        (&[-INF, -INF], half, &[(0, half), (1, half)]),
        (&[INF, INF, NAN, 3.0], half, &[(0, half), (1, half)]),
        (&[INF, 3.0, -INF], impossible, &[(0, 0.0)]),
        (&[f32::MAX, f32::MIN], 2.0 * f64::from(f32::MIN), &[(0, 0.0), (1, 2.0 * f64::from(f32::MIN))]),
        // Far below what a probability can be.
        (
            &[0.0, -2000.0, -1000.0, -1000.0, -0.0],
            -2000.0 + half,
            &[(0, half), (4, half), (2, -1000.0 + half)],
        ),
    ];
    for (logits, chosen, best) in cases {
        let found = log_probabilities(logits, 1, 3);
        assert_eq!(found, LogProbabilities { chosen, best: best.to_vec() }, "{logits:?}");
        assert_eq!(log_probabilities(logits, 1, 1).best[..], best[..best.len().min(1)]);
        assert_eq!(log_probabilities(logits, 1, 0), LogProbabilities { chosen, best: Vec::new() });
        let beyond = LogProbabilities { chosen: impossible, best: best.to_vec() };
        assert_eq!(log_probabilities(logits, u32::MAX, 3), beyond);
        assert!(log_probabilities(logits, 0, usize::MAX).best.starts_with(best));
    }
}

#[test]
fn tokens_beyond_the_vocabulary_are_found() {
    let options = SamplerOptions { logit_bias: vec![(3, 1.0), (256, 1.0), (300, 1.0)], ..Default::default() };
    assert!(options.check_vocabulary(301).is_ok());
    let error = options.check_vocabulary(256).unwrap_err();
    assert!(matches!(error, Error::TokenOutOfRange { token: 256, n_vocab: 256 }), "{error}");
    assert_eq!(options.check_vocabulary(0).unwrap_err().code(), "INVALID_OPTION");
    assert!(SamplerOptions::default().check_vocabulary(1).is_ok());
}

#[test]
fn nonsense_options_are_named() {
    type Set = fn(&mut SamplerOptions, f64);
    const NAN: f64 = f64::NAN;
    const INF: f64 = f64::INFINITY;
    let cases: [(&str, Set, &[f64]); 10] = [
        ("temperature", |o, x| o.temperature = x, &[-0.1, NAN, INF]),
        ("top_k", |o, x| o.top_k = Some(x as usize), &[0.0]),
        ("top_p", |o, x| o.top_p = x, &[0.0, 1.1, NAN]),
        ("min_p", |o, x| o.min_p = x, &[-0.1, 1.1, NAN]),
        ("typical_p", |o, x| o.typical_p = x, &[0.0, 1.1, NAN]),
        ("repetition_penalty", |o, x| o.repetition_penalty = x, &[0.0, -1.0, NAN, INF]),
        ("presence_penalty", |o, x| o.presence_penalty = x, &[NAN, INF, -INF]),
        ("frequency_penalty", |o, x| o.frequency_penalty = x, &[NAN, INF, -INF]),
        ("penalty_decay", |o, x| o.penalty_decay = x, &[0.0, 1.001, NAN]),
        ("logit_bias", |o, x| o.logit_bias = vec![(1, -f32::INFINITY), (2, x as f32)], &[NAN, INF]),
    ];
    for (expected, set, values) in cases {
        for &value in values {
            let mut options = SamplerOptions::default();
            set(&mut options, value);
            let error = Sampler::new(options).unwrap_err();
            assert!(matches!(error, Error::InvalidOption { name, .. } if name == expected), "{error}");
        }
    }
    let options = SamplerOptions { logit_bias: vec![(2, f32::INFINITY)], ..Default::default() };
    let says = "logit_bias is inf for token 2; it must be a finite number, or -inf to forbid the token";
    assert_eq!(options.validate().unwrap_err().to_string(), says);
}

#[test]
fn options_are_read_from_json_by_their_names_there() {
    let json = r#"{"topK": 3, "logitBias": [[4, null], [5, -2.5]], "penaltyDecay": 0.5}"#;
    let expected = SamplerOptions {
        top_k: Some(3),
        logit_bias: vec![(4, f32::NEG_INFINITY), (5, -2.5)],
        penalty_decay: 0.5,
        ..Default::default()
    };
    assert_eq!(serde_json::from_str::<SamplerOptions>(json).unwrap(), expected);
    assert!(serde_json::from_str::<SamplerOptions>(r#"{"top_k": 3}"#).is_err());
}
