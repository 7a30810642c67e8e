//! Errors of training, beside those of models and texts.

use std::path::PathBuf;

/// The result of training.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of training: what went wrong, where, and what to do about it.
///
/// [`code`](Self::code) is stable across releases; messages are for people and may change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file, an option, a text or a model that cannot be used, or a stop on request.
    #[error(transparent)]
    Rwkv(#[from] rwkv_core::Error),
    /// A training run's directory or checkpoint that cannot be used.
    #[error("{}: {problem}", path.display())]
    Run {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// Ranks that cannot train together.
    #[error("{problem}")]
    Ranks {
        /// Which rank, and what is wrong.
        problem: String,
    },
    /// The loss or a gradient is infinite or not a number.
    #[error(
        "the loss became {loss} at step {step}; resume the run with a learning rate lower than {}: {}",
        two_digits(*learning_rate),
        checkpoint.as_ref().map_or("no checkpoint is sound, so it begins again".to_owned(), SoundCheckpoint::describe)
    )]
    Diverged {
        /// The step, counted from 1.
        step: u64,
        /// The loss: not a number, or infinite.
        loss: f32,
        /// The directory of the run.
        run: PathBuf,
        /// The newest checkpoint that is sound, from which the run goes on when it is resumed.
        checkpoint: Option<SoundCheckpoint>,
        /// The highest learning rate of the run.
        learning_rate: f64,
    },
}

/// A checkpoint to go on from.
#[derive(Clone, Debug, PartialEq)]
pub struct SoundCheckpoint {
    /// Its directory.
    pub path: PathBuf,
    /// Steps done.
    pub step: u64,
    /// Its loss on validation text, where that is known.
    pub val_loss: Option<f32>,
}

impl SoundCheckpoint {
    fn describe(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str()).display();
        let loss = self.val_loss.map(|loss| format!(", whose validation loss was {loss:.2}"));
        format!("it goes on from {name}{}", loss.unwrap_or_default())
    }
}

fn two_digits(rate: f64) -> f64 {
    format!("{rate:.1e}").parse().unwrap_or(rate)
}

impl Error {
    /// A stable name for the kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Rwkv(error) => error.code(),
            Self::Run { .. } => "RUN",
            Self::Diverged { .. } => "DIVERGED",
            Self::Ranks { .. } => "RANKS",
        }
    }

    /// An [`rwkv_core::Error::Io`] for `path`.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let make = rwkv_core::Error::io(action, path);
        move |source| make(source).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_diverged_says_from_where_it_goes_on() {
        let checkpoint =
            SoundCheckpoint { path: "my runs/a/checkpoint-4".into(), step: 4, val_loss: Some(2.307) };
        let diverged = |checkpoint| Error::Diverged {
            step: 9,
            loss: f32::NAN,
            run: "my runs/a".into(),
            checkpoint,
            learning_rate: 0.4 / 768.0,
        };
        assert_eq!(
            diverged(Some(checkpoint)).to_string(),
            "the loss became NaN at step 9; resume the run with a learning rate lower than 0.00052: it goes on from \
             checkpoint-4, whose validation loss was 2.31"
        );
        assert_eq!(
            diverged(None).to_string(),
            "the loss became NaN at step 9; resume the run with a learning rate lower than 0.00052: no checkpoint is \
             sound, so it begins again"
        );
    }
}
