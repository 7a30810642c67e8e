//! librwkv: models for C programs, with the names, types and meanings of rwkv.cpp's `rwkv.h`.
//!
//! Programs and bindings that were written for rwkv.cpp run with it unchanged. `include/rwkv.h` documents the
//! functions; this crate converts pointers to Rust types and back. Nothing unwinds into the caller: errors
//! and panics become flags, and a line on stderr if that is enabled.
//!
//! The functions are `unsafe` because a pointer can be anything. All of them require: a context is NULL or
//! came from [`rwkv_init_from_file`] or [`rwkv_clone_context`] and was not freed; a string is NULL or ends
//! with a zero byte; an array is NULL or as long as the header says, and no other thread uses it during the
//! call.

mod context;
mod failure;

use std::ffi::{CStr, CString, c_char};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::ptr;
use std::sync::OnceLock;

pub use context::Context;
use failure::{Failure, Global, Record, Result, flags};
use rwkv_core::LoadOptions;
use rwkv_core::quantized_format;

/// Whether errors of `ctx`, or of this thread's calls without a context if it is NULL, are printed.
///
/// # Safety
/// `ctx` is NULL or a context (see above).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rwkv_set_print_errors(ctx: *mut Context, print_errors: bool) {
    // SAFETY: the caller's promise.
    match unsafe { ctx.as_ref() } {
        Some(ctx) => ctx.set_prints(print_errors),
        None => Global.set_prints(print_errors),
    }
}

/// What [`rwkv_set_print_errors`] set.
///
/// # Safety
/// `ctx` is NULL or a context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rwkv_get_print_errors(ctx: *const Context) -> bool {
    // SAFETY: the caller's promise.
    unsafe { ctx.as_ref() }.map_or_else(|| Global.prints(), Record::prints)
}

/// The flags of what went wrong since they were last asked for or a new call began, which are then forgotten.
///
/// # Safety
/// `ctx` is NULL or a context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rwkv_get_last_error(ctx: *mut Context) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { ctx.as_ref() }.map_or_else(|| Global.take(), Record::take)
}

/// A context for the model file at `model_file_path`, or NULL.
///
/// # Safety
/// The path is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rwkv_init_from_file(
    model_file_path: *const c_char,
    n_threads: u32,
    _n_gpu_layers: u32,
) -> *mut Context {
    Global.take();
    Global.guard(ptr::null_mut(), || {
        // SAFETY: the caller's promise.
        let path = unsafe { path(model_file_path, "model_file_path") }?;
        Ok(Box::into_raw(Box::new(Context::load(&path, n_threads)?)))
    })
}

/// Another context of the same model, or NULL.
///
/// # Safety
/// `ctx` is NULL or a context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rwkv_clone_context(ctx: *mut Context, n_threads: u32) -> *mut Context {
    Global.guard(ptr::null_mut(), || {
        // SAFETY: the caller's promise.
        let ctx = unsafe { ctx.as_ref() }.ok_or_else(Failure::no_context)?;
        Ok(Box::into_raw(Box::new(ctx.another(n_threads)?)))
    })
}

/// Reads one token.
///
/// # Safety
/// `ctx` is NULL or a context; each array is NULL or has the context's length of a state or of logits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rwkv_eval(
    ctx: *mut Context,
    token: u32,
    state_in: *const f32,
    state_out: *mut f32,
    logits_out: *mut f32,
) -> bool {
    // SAFETY: the caller's promise, here and within.
    let body = |ctx: &Context| unsafe { ctx.eval(&[token], state_in, state_out, logits_out) };
    // SAFETY: the caller's promise.
    unsafe { evaluate(ctx, body) }
}

/// Reads `sequence_len` tokens.
///
/// # Safety
/// As [`rwkv_eval`]; `tokens` is NULL or has `sequence_len` elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rwkv_eval_sequence(
    ctx: *mut Context,
    tokens: *const u32,
    sequence_len: usize,
    state_in: *const f32,
    state_out: *mut f32,
    logits_out: *mut f32,
) -> bool {
    // SAFETY: the caller's promise.
    let body =
        |ctx: &Context| unsafe { ctx.eval_sequence(tokens, sequence_len, state_in, state_out, logits_out) };
    // SAFETY: the caller's promise.
    unsafe { evaluate(ctx, body) }
}

/// Reads `sequence_len` tokens. How they are cut changes no bit of the result, and the engine bounds its
/// memory by itself: so `chunk_size` is only checked.
///
/// # Safety
/// As [`rwkv_eval_sequence`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rwkv_eval_sequence_in_chunks(
    ctx: *mut Context,
    tokens: *const u32,
    sequence_len: usize,
    chunk_size: usize,
    state_in: *const f32,
    state_out: *mut f32,
    logits_out: *mut f32,
) -> bool {
    let body = |ctx: &Context| {
        if chunk_size == 0 {
            return Err(Failure::args("chunk_size is 0; it must be at least 1"));
        }
        // SAFETY: the caller's promise.
        unsafe { ctx.eval_sequence(tokens, sequence_len, state_in, state_out, logits_out) }
    };
    // SAFETY: the caller's promise.
    unsafe { evaluate(ctx, body) }
}

/// Number of tokens in the vocabulary; 0 without a context.
///
/// # Safety
/// `ctx` is NULL or a context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rwkv_get_n_vocab(ctx: *const Context) -> usize {
    // SAFETY: the caller's promise.
    unsafe { number(ctx, |ctx| ctx.model.config().n_vocab) }
}

/// Width of the residual stream; 0 without a context.
///
/// # Safety
/// `ctx` is NULL or a context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rwkv_get_n_embed(ctx: *const Context) -> usize {
    // SAFETY: the caller's promise.
    unsafe { number(ctx, |ctx| ctx.model.config().n_embd) }
}

/// Number of blocks; 0 without a context.
///
/// # Safety
/// `ctx` is NULL or a context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rwkv_get_n_layer(ctx: *const Context) -> usize {
    // SAFETY: the caller's promise.
    unsafe { number(ctx, |ctx| ctx.model.config().n_layer) }
}

/// Number of floats of a state; 0 without a context.
///
/// # Safety
/// `ctx` is NULL or a context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rwkv_get_state_len(ctx: *const Context) -> usize {
    // SAFETY: the caller's promise.
    unsafe { number(ctx, Context::state_len) }
}

/// Number of floats of the logits; 0 without a context.
///
/// # Safety
/// `ctx` is NULL or a context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rwkv_get_logits_len(ctx: *const Context) -> usize {
    // SAFETY: the caller's promise.
    unsafe { rwkv_get_n_vocab(ctx) }
}

/// The older name of [`rwkv_get_state_len`], which bindings still look for.
///
/// # Safety
/// `ctx` is NULL or a context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rwkv_get_state_buffer_element_count(ctx: *const Context) -> u32 {
    // SAFETY: the caller's promise.
    u32::try_from(unsafe { rwkv_get_state_len(ctx) }).unwrap_or(u32::MAX)
}

/// The older name of [`rwkv_get_logits_len`].
///
/// # Safety
/// `ctx` is NULL or a context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rwkv_get_logits_buffer_element_count(ctx: *const Context) -> u32 {
    // SAFETY: the caller's promise.
    u32::try_from(unsafe { rwkv_get_logits_len(ctx) }).unwrap_or(u32::MAX)
}

/// Writes the state before the first token.
///
/// # Safety
/// `ctx` is NULL or a context; `state` is NULL or has the length of its states.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rwkv_init_state(ctx: *const Context, state: *mut f32) {
    // SAFETY: the caller's promise.
    let Some(ctx) = (unsafe { ctx.as_ref() }) else {
        Global.report(&Failure::no_context());
        return;
    };
    if state.is_null() {
        ctx.report(&Failure::args("state is NULL"));
        return;
    }
    let empty = ctx.empty.as_slice();
    // SAFETY: the caller promises as many floats at `state` as a state has, and has no pointer to our own.
    unsafe { state.copy_from_nonoverlapping(empty.as_ptr(), empty.len()) };
}

/// Frees a context; the model goes with its last one.
///
/// # Safety
/// `ctx` is NULL or a context that no thread uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rwkv_free(ctx: *mut Context) {
    if ctx.is_null() {
        return;
    }
    Global.guard((), || {
        // SAFETY: the caller promises that it came from `Box::into_raw` in one of the two functions above,
        // and that it is freed once.
        drop(unsafe { Box::from_raw(ctx) });
        Ok(())
    });
}

/// Makes a quantized model file of an FP32 or FP16 one.
///
/// # Safety
/// Each argument is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rwkv_quantize_model_file(
    model_file_path_in: *const c_char,
    model_file_path_out: *const c_char,
    format_name: *const c_char,
) -> bool {
    Global.take();
    Global.guard(false, || {
        // SAFETY: the caller's promise.
        let name = unsafe { string(format_name, "format_name") }?.to_string_lossy();
        let format = quantized_format(&name)
            .map_err(|error| Failure::new(flags::ARGS | flags::DATA_TYPE, error.to_string()))?;
        // SAFETY: the caller's promise.
        let input = unsafe { path(model_file_path_in, "model_file_path_in") }?;
        // SAFETY: the caller's promise.
        let output = unsafe { path(model_file_path_out, "model_file_path_out") }?;
        rwkv_core::quantize(
            input,
            output,
            format,
            &LoadOptions::default(),
            |_, _| ControlFlow::Continue(()),
        )?;
        Ok(true)
    })
}

/// What the library is and what it found on this machine, as a string that is never freed.
#[unsafe(no_mangle)]
pub extern "C" fn rwkv_get_system_info_string() -> *const c_char {
    static INFO: OnceLock<CString> = OnceLock::new();
    let info = || {
        let version = env!("CARGO_PKG_VERSION");
        let text = match (LoadOptions { threads: Some(1), isa: None }).start_cpu() {
            Ok(cpu) => format!("RWKV={version} ISA={}", cpu.isa()),
            Err(error) => format!("RWKV={version} ISA=none ({error})"),
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        CString::new(format!("{text} THREADS={threads}")).unwrap_or_default()
    };
    Global.guard(c"RWKV".as_ptr(), || Ok(INFO.get_or_init(info).as_ptr()))
}

/// An evaluation: its error is the context's last one, or the thread's if there is no context.
///
/// # Safety
/// `ctx` is NULL or a context.
unsafe fn evaluate(ctx: *mut Context, body: impl FnOnce(&Context) -> Result<()>) -> bool {
    // SAFETY: the caller's promise.
    let Some(ctx) = (unsafe { ctx.as_ref() }) else {
        Global.report(&Failure::no_context());
        return false;
    };
    ctx.take();
    ctx.guard(false, || body(ctx).map(|()| true))
}

/// A number of a context, or 0 and an error.
///
/// # Safety
/// `ctx` is NULL or a context.
unsafe fn number(ctx: *const Context, read: impl FnOnce(&Context) -> usize) -> usize {
    // SAFETY: the caller's promise.
    unsafe { ctx.as_ref() }.map_or_else(
        || {
            Global.report(&Failure::no_context());
            0
        },
        read,
    )
}

/// The path in a C string: its bytes on Unix, UTF-8 elsewhere.
///
/// # Safety
/// `text` is NULL or ends with a zero byte.
unsafe fn path(text: *const c_char, name: &str) -> Result<PathBuf> {
    // SAFETY: the caller's promise.
    let text = unsafe { string(text, name) }?;
    #[cfg(unix)]
    {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt as _;
        Ok(OsStr::from_bytes(text.to_bytes()).into())
    }
    #[cfg(not(unix))]
    {
        let text = text.to_str().map_err(|_| Failure::args(format!("{name} is not UTF-8")))?;
        Ok(text.into())
    }
}

/// A C string that has to be there.
///
/// # Safety
/// `text` is NULL or ends with a zero byte, and stays as it is during the call.
unsafe fn string<'a>(text: *const c_char, name: &str) -> Result<&'a CStr> {
    if text.is_null() {
        return Err(Failure::args(format!("{name} is NULL")));
    }
    // SAFETY: not null; the rest is the caller's promise.
    Ok(unsafe { CStr::from_ptr(text) })
}
