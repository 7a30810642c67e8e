//! What the fuzz targets share: a directory for their files, model files that are nearly sound, and what
//! every loaded model is put through.

pub mod directory;
pub mod exercise;
pub mod formats;
pub mod model_files;
pub mod runs;

use std::fmt::{Debug, Display};
use std::sync::{Arc, LazyLock};

use rwkv_core::LoadOptions;
use rwkv_kernels::Cpu;

/// One thread, on the instructions that `RWKV_ISA` names, or else the fastest. Started once.
pub fn cpu() -> Arc<Cpu> {
    static CPU: LazyLock<Arc<Cpu>> = LazyLock::new(|| {
        LoadOptions { threads: Some(1), isa: None }
            .start_cpu()
            .expect("RWKV_ISA names instructions of this CPU")
    });
    Arc::clone(&CPU)
}

/// What is asked of every error: a code and a message that can be made.
pub fn check_error(error: &rwkv_core::Error) {
    check_words(error.code(), error);
}

/// The same of an error of training.
pub fn check_train_error(error: &rwkv_train::Error) {
    check_words(error.code(), error);
}

fn check_words(code: &str, error: &(impl Display + Debug)) {
    assert!(!code.is_empty() && !error.to_string().is_empty() && !format!("{error:?}").is_empty());
}
