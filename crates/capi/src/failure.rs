//! What went wrong, as C programs are told: flags to ask for, and a line on stderr.

use std::any::Any;
use std::cell::Cell;
use std::io::{ErrorKind, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rwkv_core::{Error, Fault};

/// `enum rwkv_error_flags` of `rwkv.h`: where it happened, and what.
pub(crate) mod flags {
    pub(crate) const ARGS: u32 = 1 << 8;
    pub(crate) const FILE: u32 = 2 << 8;
    pub(crate) const MODEL: u32 = 3 << 8;
    pub(crate) const MODEL_PARAMS: u32 = 4 << 8;
    pub(crate) const GRAPH: u32 = 5 << 8;
    pub(crate) const CTX: u32 = 6 << 8;

    pub(crate) const ALLOC: u32 = 1;
    pub(crate) const FILE_OPEN: u32 = 2;
    pub(crate) const FILE_READ: u32 = 4;
    pub(crate) const FILE_WRITE: u32 = 5;
    pub(crate) const FILE_MAGIC: u32 = 6;
    pub(crate) const FILE_VERSION: u32 = 7;
    pub(crate) const DATA_TYPE: u32 = 8;
    pub(crate) const UNSUPPORTED: u32 = 9;
    pub(crate) const SHAPE: u32 = 10;
    pub(crate) const DIMENSION: u32 = 11;
    pub(crate) const KEY: u32 = 12;
    pub(crate) const DATA: u32 = 13;
    pub(crate) const PARAM_MISSING: u32 = 14;
}

/// An error on its way to a C program.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) flags: u32,
    pub(crate) message: String,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(flags: u32, message: impl Into<String>) -> Self {
        Self { flags, message: message.into() }
    }

    /// A call whose arguments make no sense.
    pub(crate) fn args(message: impl Into<String>) -> Self {
        Self::new(flags::ARGS, message)
    }

    /// A call without the context that it needs.
    pub(crate) fn no_context() -> Self {
        Self::new(flags::CTX, "the context is NULL")
    }

    fn panic(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Self::new(flags::GRAPH, format!("a fault of this library: {}", text.unwrap_or("no message")))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(flags_of(&error), error.to_string())
    }
}

/// The flags that rwkv.cpp sets in the same place, as far as it has such a place.
fn flags_of(error: &Error) -> u32 {
    /// Bytes of a model file's own header.
    const HEADER: u64 = 24;
    match error {
        Error::Io { source, .. } if source.kind() == ErrorKind::OutOfMemory => flags::MODEL | flags::ALLOC,
        Error::Io { action: "open", .. } => flags::FILE | flags::FILE_OPEN,
        Error::Io { action: "read", .. } | Error::FileChanged { .. } => flags::FILE | flags::FILE_READ,
        Error::Io { .. } => flags::FILE | flags::FILE_WRITE,
        Error::Weight { .. } | Error::NotFinite { .. } => flags::MODEL | flags::DATA,
        Error::ModelFile { tensor: None, offset: ..HEADER, fault, .. } => flags::FILE | detail(*fault),
        Error::ModelFile { fault, .. } => flags::MODEL_PARAMS | detail(*fault),
        Error::Unsupported { fault: Fault::Version, .. } => flags::MODEL | flags::UNSUPPORTED,
        Error::Unsupported { fault: Fault::Other, .. } => flags::FILE | flags::UNSUPPORTED,
        Error::Unsupported { fault, .. } => flags::FILE | detail(*fault),
        Error::InvalidOption { .. } | Error::TokenOutOfRange { .. } | Error::State { .. } => flags::ARGS,
        Error::Isa(_) => flags::ARGS | flags::UNSUPPORTED,
        _ => flags::MODEL,
    }
}

fn detail(fault: Fault) -> u32 {
    match fault {
        Fault::Truncated => flags::FILE_READ,
        Fault::Magic => flags::FILE_MAGIC,
        Fault::FormatVersion => flags::FILE_VERSION,
        Fault::DataType => flags::DATA_TYPE,
        Fault::Version => flags::UNSUPPORTED,
        Fault::Shape => flags::SHAPE,
        Fault::Dimensions => flags::DIMENSION,
        Fault::Name => flags::KEY,
        Fault::Missing => flags::PARAM_MISSING,
        _ => flags::DATA,
    }
}

thread_local! {
    /// What calls without a context left, for `rwkv_get_last_error(NULL)`. Each thread has its own, as in
    /// rwkv.cpp.
    static LAST_ERROR: Cell<u32> = const { Cell::new(0) };
    static PRINT_ERRORS: Cell<bool> = const { Cell::new(true) };
}

/// Where errors of calls without a context go: a thread's own settings.
pub(crate) struct Global;

/// Somewhere that errors are kept until they are asked for.
pub(crate) trait Record {
    fn prints(&self) -> bool;
    fn set_prints(&self, prints: bool);
    /// Adds flags to those that are there.
    fn add(&self, flags: u32);
    /// Gives the flags and forgets them.
    fn take(&self) -> u32;

    /// Keeps the error, and prints it if that is wanted.
    fn report(&self, failure: &Failure) {
        self.add(failure.flags);
        if self.prints() {
            // A closed stderr is nobody's error.
            let _ = writeln!(std::io::stderr(), "rwkv: {}", failure.message);
        }
    }

    /// What `body` returns. An error or a panic is recorded instead, and the answer is `otherwise`.
    fn guard<T>(&self, otherwise: T, body: impl FnOnce() -> Result<T>) -> T {
        // Nothing that a panic may have left half done is looked at again: a state is written before it is
        // read, and the locks of memory that passes share ignore poison.
        match catch_unwind(AssertUnwindSafe(body)) {
            Ok(Ok(value)) => value,
            Ok(Err(failure)) => {
                self.report(&failure);
                otherwise
            }
            Err(payload) => {
                self.report(&Failure::panic(&*payload));
                otherwise
            }
        }
    }
}

impl Record for Global {
    fn prints(&self) -> bool {
        PRINT_ERRORS.get()
    }

    fn set_prints(&self, prints: bool) {
        PRINT_ERRORS.set(prints);
    }

    fn add(&self, flags: u32) {
        LAST_ERROR.set(LAST_ERROR.get() | flags);
    }

    fn take(&self) -> u32 {
        LAST_ERROR.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_at_the_border() {
        Global.set_prints(false);
        let answer = Global.guard(7, || panic!("{} and {}", 1, 2));
        assert_eq!((answer, Global.take(), Global.take()), (7, flags::GRAPH, 0));
        let answer = Global.guard(7, || Err(Failure::args("no")));
        assert_eq!((answer, Global.take()), (7, flags::ARGS));
        assert_eq!((Global.guard(7, || Ok(8)), Global.take()), (8, 0));
        let failure = Failure::panic(&"the reason");
        assert!(failure.message.ends_with("the reason"));
    }
}
