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
fn nonsense_options_are_named() {
    let cases: [(&str, SamplerOptions); 7] = [
        ("temperature", SamplerOptions { temperature: -0.1, ..Default::default() }),
        ("temperature", SamplerOptions { temperature: f64::NAN, ..Default::default() }),
        ("temperature", SamplerOptions { temperature: f64::INFINITY, ..Default::default() }),
        ("top_k", SamplerOptions { top_k: Some(0), ..Default::default() }),
        ("top_p", SamplerOptions { top_p: 0.0, ..Default::default() }),
        ("top_p", SamplerOptions { top_p: 1.1, ..Default::default() }),
        ("top_p", SamplerOptions { top_p: f64::NAN, ..Default::default() }),
    ];
    for (expected, options) in cases {
        let error = Sampler::new(options).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { name, .. } if name == expected), "{error}");
    }
}
