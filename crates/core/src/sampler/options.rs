//! What a sampler can be told.

use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result};

/// In which order a [`Sampler`](crate::Sampler) cuts, and how it counts what occurred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SamplerKind {
    /// `top_k` before `top_p`, as most programs have it.
    #[default]
    Usual,
    /// As RWKV's own programs (`PIPELINE` of PyPI `rwkv` 0.8.32, `utils.py`), for which published settings of RWKV
    /// models are meant: `top_p` before `top_k`, and a token that is as likely as the last that `top_p` takes is
    /// taken too. A token that occurred keeps its presence penalty for good, however far its count has faded;
    /// occurrences of [`uncounted`](SamplerOptions::uncounted) tokens add nothing to a count. In two things this is
    /// not theirs: a `top_p` of 1 is off (there it leaves the likeliest token alone whenever the sum of all
    /// probabilities is rounded to less than 1), and equal tokens at the end of `top_k` are taken by their numbers.
    Rwkv,
}

/// Options of a [`Sampler`](crate::Sampler), which says in which order they are applied.
///
/// By default every one of them is off: a token is drawn from the model's own distribution.
///
/// As JSON its fields are in camel case, and may be left out; a bias of −∞, which JSON has no number for, is `null`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SamplerOptions {
    /// Sharpens (below 1) or flattens (above 1) the distribution; 0 always takes the likeliest token, whatever
    /// the candidates are.
    pub temperature: f64,
    /// Only the likeliest `top_k` tokens are candidates; none means all.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that together have this much probability are candidates; 1 means all.
    pub top_p: f64,
    /// Only tokens at least this many times as likely as the likeliest candidate are candidates, 0 to 1;
    /// 0 means all (Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling").
    pub min_p: f64,
    /// Locally typical sampling (Meister et al. 2022): only the tokens whose −ln p is nearest to the entropy,
    /// and that together have this much probability, are candidates; 1 means all.
    pub typical_p: f64,
    /// The logit of a token that occurred is divided by this if it is positive and multiplied by it if it is
    /// negative (Keskar et al. 2019, "CTRL"): above 1 it becomes less likely, below 1 likelier; 1 is off.
    pub repetition_penalty: f64,
    /// Subtracted from the logit of a token that occurred, however often; 0 is off, below 0 makes it likelier.
    pub presence_penalty: f64,
    /// Subtracted from the logit of a token once for each time that it occurred; 0 is off, below 0 makes it
    /// likelier.
    pub frequency_penalty: f64,
    /// How penalties fade: all counts of tokens are multiplied by it before another token is counted, and a
    /// token whose count falls below 0.001 has not occurred any more. 1 keeps them for good; RWKV's own chat
    /// has 0.996, which forgets a token after 1,724 others.
    pub penalty_decay: f64,
    /// What is added to the logits of tokens: (token, bias). −∞ forbids a token. Of several for one token,
    /// each is added.
    #[serde(deserialize_with = "biases")]
    pub logit_bias: Vec<(u32, f32)>,
    /// The order of the cuts, and how occurrences are counted.
    pub sampler: SamplerKind,
    /// Tokens whose occurrences add 0 to their counts with [`SamplerKind::Rwkv`]: the presence penalty is for them
    /// too, the frequency penalty is not. In RWKV's own programs those are the digits, the space and the tab;
    /// whoever knows the tokenizer gives their numbers. Passed over by [`SamplerKind::Usual`].
    pub uncounted: Vec<u32>,
    /// Start of the random numbers: the same seed and the same logits give the same tokens.
    pub seed: u64,
}

fn biases<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<(u32, f32)>, D::Error> {
    let biases = Vec::<(u32, Option<f32>)>::deserialize(deserializer)?;
    Ok(biases.into_iter().map(|(token, bias)| (token, bias.unwrap_or(f32::NEG_INFINITY))).collect())
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_decay: 1.0,
            logit_bias: Vec::new(),
            sampler: SamplerKind::Usual,
            uncounted: Vec::new(),
            seed: 0,
        }
    }
}

impl SamplerOptions {
    /// Whether every option makes sense.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] that names the first that does not.
    pub fn validate(&self) -> Result<()> {
        let must = |name, value: f64, holds: bool, expected: &str| {
            if holds { Ok(()) } else { Err(Error::option(name, value, expected)) }
        };
        let share = |name, value| must(name, value, value > 0.0 && value <= 1.0, "above 0 and at most 1");
        let finite = |name, value: f64| must(name, value, value.is_finite(), "a finite number");

        let &Self { temperature, repetition_penalty: repetition, .. } = self;
        let sound = temperature.is_finite() && temperature >= 0.0;
        must("temperature", temperature, sound, "a finite number, at least 0")?;
        if self.top_k == Some(0) {
            return Err(Error::option("top_k", 0, "at least 1"));
        }
        share("top_p", self.top_p)?;
        must("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "at least 0 and at most 1")?;
        share("typical_p", self.typical_p)?;
        let sound = repetition.is_finite() && repetition > 0.0;
        must("repetition_penalty", repetition, sound, "a finite number above 0")?;
        finite("presence_penalty", self.presence_penalty)?;
        finite("frequency_penalty", self.frequency_penalty)?;
        share("penalty_decay", self.penalty_decay)?;
        match self.logit_bias.iter().find(|(_, bias)| bias.is_nan() || *bias == f32::INFINITY) {
            None => Ok(()),
            Some((token, bias)) => {
                let value = format!("{bias} for token {token}");
                Err(Error::option("logit_bias", value, "a finite number, or -inf to forbid the token"))
            }
        }
    }

    /// Whether every token that they name is one of a vocabulary of `n_vocab` tokens. Whoever samples from a
    /// model calls this first: the sampler itself passes over others.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`] with the first that is not; [`Error::InvalidOption`] if `n_vocab` is 0.
    pub fn check_vocabulary(&self, n_vocab: usize) -> Result<()> {
        if n_vocab == 0 {
            return Err(Error::option("n_vocab", 0, "at least 1"));
        }
        match self.logit_bias.iter().find(|(token, _)| *token as usize >= n_vocab) {
            Some(&(token, _)) => Err(Error::TokenOutOfRange { token, n_vocab }),
            None => Ok(()),
        }
    }

    /// Whether it matters which tokens occurred.
    #[allow(clippy::float_cmp)] // exactly these values are off
    pub(super) fn penalizes(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}
