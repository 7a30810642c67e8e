//! Which instructions and how many threads a model uses.

use std::sync::{Arc, Mutex, PoisonError, Weak};

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

/// What models run on by default, as long as one of them is there.
static SHARED: Mutex<Vec<Weak<Cpu>>> = Mutex::new(Vec::new());

impl LoadOptions {
    /// The threads that this process's models share: those that another model with the same options is on, or new
    /// ones. More threads than cores would make all of them slower.
    ///
    /// # Errors
    /// As [`start_cpu`](Self::start_cpu).
    pub fn shared_cpu(&self) -> Result<Arc<Cpu>> {
        let (isa, threads) = self.check()?;
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.retain(|cpu| cpu.strong_count() > 0);
        let found =
            shared.iter().filter_map(Weak::upgrade).find(|cpu| (cpu.isa(), cpu.threads()) == (isa, threads));
        if let Some(cpu) = found {
            return Ok(cpu);
        }
        let cpu = Arc::new(Cpu::new(isa, threads));
        shared.push(Arc::downgrade(&cpu));
        Ok(cpu)
    }

    /// Starts threads of its own. Models and a trainer may share one `Cpu`; their loops then take turns.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a nonsensical number of threads, [`Error::Isa`] for instructions that
    /// this CPU does not have.
    pub fn start_cpu(&self) -> Result<Arc<Cpu>> {
        let (isa, threads) = self.check()?;
        Ok(Arc::new(Cpu::new(isa, threads)))
    }

    fn check(&self) -> Result<(Isa, usize)> {
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
        Ok((isa, threads))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_with_the_same_options_share_threads_as_long_as_there_is_one() {
        let share = |threads| LoadOptions { threads, isa: Some(Isa::Scalar) }.shared_cpu().unwrap();
        let cpu = share(Some(3));
        assert!(Arc::ptr_eq(&cpu, &share(Some(3))));
        assert!(!Arc::ptr_eq(&cpu, &share(Some(4))));
        let weak = Arc::downgrade(&cpu);
        drop(cpu);
        assert!(weak.upgrade().is_none());
    }

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
