//! How a text is written on.

use rwkv_core::{Error, Result, SamplerOptions};

/// Options of [`Session::generate`](crate::Session::generate).
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Tokens to write at most.
    pub max_tokens: usize,
    /// Writing ends before the first of these strings; none of them is empty. It is neither part of what is written
    /// nor of the session's text.
    pub stop: Vec<String>,
    /// Whether to go on after the token that ends a text, as if it were any other. By default writing ends before
    /// it.
    pub ignore_end_of_text: bool,
    /// Whether to tell how likely the model held each token, and how many of the likeliest in its place; none does
    /// not tell.
    pub log_probabilities: Option<usize>,
    /// How tokens are chosen.
    pub sampler: SamplerOptions,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            stop: Vec::new(),
            ignore_end_of_text: false,
            log_probabilities: None,
            sampler: SamplerOptions::default(),
        }
    }
}

impl GenerateOptions {
    /// Whether every option makes sense.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] that names the first that does not.
    pub fn validate(&self) -> Result<()> {
        if self.max_tokens == 0 {
            return Err(Error::option("max_tokens", 0, "at least 1"));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::option("stop", "empty", "a string of at least one character"));
        }
        self.sampler.validate()
    }
}
