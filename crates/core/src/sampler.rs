//! Sampling: the choice of a token from logits.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::error::{Error, Result};

/// Options of a [`Sampler`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Sharpens (below 1) or flattens (above 1) the distribution; 0 always takes the likeliest token.
    pub temperature: f64,
    /// Only the likeliest `top_k` tokens are candidates; none means all.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that together have this much probability are candidates; 1 means all.
    pub top_p: f64,
    /// Start of the random numbers: the same seed and the same logits give the same tokens.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: None, top_p: 1.0, seed: 0 }
    }
}

impl SamplerOptions {
    /// Whether every option makes sense.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] that names the first that does not.
    pub fn validate(&self) -> Result<()> {
        let &Self { temperature, top_k, top_p, .. } = self;
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(Error::option("temperature", temperature, "a finite number, at least 0"));
        }
        if top_k == Some(0) {
            return Err(Error::option("top_k", 0, "at least 1"));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(Error::option("top_p", top_p, "above 0 and at most 1"));
        }
        Ok(())
    }
}

/// Chooses tokens by chance, from a stream of random numbers (ChaCha8) that is the same on every machine.
///
/// The order is that of RWKV's own sampling, for which its published settings are meant: the softmax of the
/// logits is cut to the likeliest `top_k`, then to `top_p` of the whole, and only then is the temperature
/// applied (p^(1/temperature)) to what is left. A high temperature thus never lets in a token that the cut
/// keeps out.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    rng: ChaCha8Rng,
    /// Scratch, kept to save allocating it for each token.
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    token: u32,
    /// Logit below the largest one: log-probability up to a constant.
    log: f64,
    weight: f64,
}

impl Sampler {
    /// A sampler at the start of its random numbers.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] that names the option.
    pub fn new(options: SamplerOptions) -> Result<Self> {
        options.validate()?;
        Ok(Self { options, rng: ChaCha8Rng::seed_from_u64(options.seed), candidates: Vec::new() })
    }

    /// The options it was made with.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// Chooses a token of a distribution with these logits (n_vocab).
    ///
    /// A NaN counts as impossible. Equal logits are ordered by token.
    ///
    /// # Panics
    /// If there are no logits.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        assert!(!logits.is_empty(), "no logits");
        let SamplerOptions { temperature, top_k, top_p, .. } = self.options;
        if temperature == 0.0 {
            return argmax(logits);
        }
        self.load(logits);
        if let Some(top_k) = top_k {
            self.cut_to_count(top_k);
        }
        if top_p < 1.0 {
            self.cut_to_probability(top_p);
        }
        self.draw(temperature)
    }

    /// Candidates are all tokens, weighing `exp(logit − max)`.
    #[allow(clippy::float_cmp)] // is it that very logit?
    fn load(&mut self, logits: &[f32]) {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max); // passes over NaN
        self.candidates.clear();
        self.candidates.extend(logits.iter().enumerate().map(|(token, &logit)| {
            // The test for equality makes ∞ − ∞ a 0: with infinite logits the choice is among those.
            let log = if logit == max { 0.0 } else { f64::from(logit) - f64::from(max) };
            let log = if log.is_nan() { f64::NEG_INFINITY } else { log };
            Candidate { token: token as u32, log, weight: libm::exp(log) }
        }));
    }

    fn cut_to_count(&mut self, count: usize) {
        if count < self.candidates.len() {
            self.candidates.select_nth_unstable_by(count, likelier);
            self.candidates.truncate(count);
            // Drawing walks the candidates: their order must not be the selection's accident.
            self.candidates.sort_unstable_by_key(|candidate| candidate.token);
        }
    }

    fn cut_to_probability(&mut self, top_p: f64) {
        let total: f64 = self.candidates.iter().map(|candidate| candidate.weight).sum();
        // Those below (1 − top_p) / n together have less than 1 − top_p, so none of them is needed: most of a
        // large vocabulary is left unsorted.
        let least = total * (1.0 - top_p) / self.candidates.len() as f64;
        self.candidates.retain(|candidate| candidate.weight >= least);
        self.candidates.sort_unstable_by(likelier);
        let mut sum = 0.0;
        let enough = self.candidates.iter().position(|candidate| {
            sum += candidate.weight;
            sum >= top_p * total
        });
        if let Some(last) = enough {
            self.candidates.truncate(last + 1);
        }
    }

    fn draw(&mut self, temperature: f64) -> u32 {
        let mut total = 0.0;
        for candidate in &mut self.candidates {
            candidate.weight = libm::exp(candidate.log / temperature);
            total += candidate.weight;
        }
        let uniform = (self.rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64; // [0, 1)
        let mut left = uniform * total;
        let mut chosen = 0;
        for candidate in self.candidates.iter().filter(|candidate| candidate.weight > 0.0) {
            chosen = candidate.token;
            left -= candidate.weight;
            if left < 0.0 {
                break;
            }
        }
        chosen
    }
}

/// Likelier first, then by token.
fn likelier(x: &Candidate, y: &Candidate) -> std::cmp::Ordering {
    y.log.total_cmp(&x.log).then(x.token.cmp(&y.token))
}

/// The first of the largest logits; 0 if all are NaN.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (token, logit);
        }
    }
    best.0 as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f64, top_k: Option<usize>, top_p: f64, seed: u64) -> Sampler {
        Sampler::new(SamplerOptions { temperature, top_k, top_p, seed }).unwrap()
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
                assert!(
                    (found - expected).abs() < 0.01,
                    "{temperature} {top_k:?} {top_p}: {found} {expected}"
                );
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
}
