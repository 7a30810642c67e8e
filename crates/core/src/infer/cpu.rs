//! Which instructions and how many threads a model uses.

use std::sync::Arc;

use rwkv_kernels::{Cpu, Isa, IsaError};

use crate::error::{Error, Result};

/// More threads than any single machine of today has cores: a larger number is a mistake.
pub const MAX_THREADS: usize = 1024;

/// Options of [`Model::load`](crate::Model::load): the default is all that the machine offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Number of threads, the caller's included; none means as many as this process may use.
    pub threads: Option<usize>,
    /// Instruction set; none means what `RWKV_ISA` says, or else the fastest that this CPU has.
    pub isa: Option<Isa>,
}

impl LoadOptions {
    /// Starts the threads. Models and a trainer may share one `Cpu`; their loops then take turns.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a nonsensical number of threads, [`Error::Isa`] for instructions that
    /// this CPU does not have.
    pub fn start_cpu(&self) -> Result<Arc<Cpu>> {
        let threads = match self.threads {
            None => std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS),
            Some(threads) if (1..=MAX_THREADS).contains(&threads) => threads,
            Some(threads) => {
                return Err(Error::option("threads", threads, format!("from 1 to {MAX_THREADS}")));
            }
        };
        let isa = match self.isa {
            None => Isa::from_env()?,
            Some(isa) if isa.is_supported() => isa,
            Some(isa) => return Err(Error::Isa(IsaError { name: isa.name().to_owned(), known: true })),
        };
        Ok(Arc::new(Cpu::new(isa, threads)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_counted_and_nonsense_is_refused() {
        let start = |threads| LoadOptions { threads, isa: Some(Isa::Scalar) }.start_cpu();
        assert_eq!(start(Some(2)).unwrap().threads(), 2);
        assert!(start(None).unwrap().threads() >= 1);
        for threads in [0, MAX_THREADS + 1, usize::MAX] {
            let error = start(Some(threads)).unwrap_err();
            assert!(matches!(error, Error::InvalidOption { name: "threads", .. }), "{error}");
        }
    }
}
