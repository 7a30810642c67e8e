//! Calls of librwkv, one after the other, with pointers as the header allows them. Arrays are no longer than
//! they have to be, so that AddressSanitizer sees a step beyond.

#![no_main]

use std::ffi::{CString, c_char};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::ptr;
use std::sync::LazyLock;

use arbitrary::{Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use rwkv_capi::{
    Context, rwkv_clone_context, rwkv_eval, rwkv_eval_sequence, rwkv_eval_sequence_in_chunks, rwkv_free,
    rwkv_get_last_error, rwkv_get_logits_buffer_element_count, rwkv_get_logits_len, rwkv_get_n_embed,
    rwkv_get_n_layer, rwkv_get_n_vocab, rwkv_get_print_errors, rwkv_get_state_buffer_element_count,
    rwkv_get_state_len, rwkv_get_system_info_string, rwkv_init_from_file, rwkv_init_state,
    rwkv_quantize_model_file, rwkv_set_print_errors,
};
use rwkv_core::DataType;
use rwkv_fuzz::{directory, exercise::bits, model_files};

/// Flags that say "a fault of this library": a panic that was caught at the border.
const FAULT: u32 = 5 << 8;

/// What is in an array that nothing was written to.
const UNTOUCHED: f32 = 12345.0;

#[derive(Debug, Arbitrary)]
enum Call {
    Load { file: u8, threads: u8, gpu_layers: u32 },
    Clone { ctx: u8, threads: u8 },
    Free { ctx: u8 },
    Eval { ctx: u8, token: Token, arrays: Arrays },
    Sequence { ctx: u8, tokens: Tokens, arrays: Arrays },
    Chunks { ctx: u8, tokens: Tokens, chunk_size: u64, arrays: Arrays },
    Sizes { ctx: u8 },
    InitState { ctx: u8, null: bool },
    LastError { ctx: u8 },
    PrintErrors { ctx: u8 },
    Quantize { input: u8, output: u8, format: Text },
    Damage { at: u16, to: u8 },
    Info,
}

#[derive(Debug, Arbitrary)]
enum Token {
    Small(u8),
    Any(u32),
}

#[derive(Debug, Arbitrary)]
enum Tokens {
    /// Of the vocabulary, mostly: taken modulo a little more than it.
    Some(Vec<u8>),
    Null(u64),
    Long(u16),
    /// An array that is there and a length of 0, or one that no array has.
    WrongLen(bool),
}

#[derive(Debug, Arbitrary)]
enum StateIn {
    Null,
    /// The state after the last evaluation of this context, as it was given out.
    Last,
    Values(Vec<u32>),
    Fill(u32),
}

#[derive(Debug, Arbitrary)]
struct Arrays {
    state_in: StateIn,
    state_out: Option<bool>,
    logits: bool,
}

#[derive(Debug, Arbitrary)]
enum Text {
    Format(u8),
    Bytes(Vec<u8>),
    Null,
}

struct Slot {
    ctx: *mut Context,
    state: Box<[f32]>,
}

static HALF: LazyLock<Vec<u8>> =
    LazyLock::new(|| model_files::sound(&model_files::config(3, 32, 1, 32), DataType::F16));

static FILES: LazyLock<Vec<CString>> = LazyLock::new(|| {
    let small = model_files::sound(&model_files::config(5, 4, 2, 4), DataType::F32);
    let files = [
        ("small.bin", Some(small)),
        ("half.bin", Some(HALF.clone())),
        ("q8_0.bin", Some(model_files::sound(&model_files::config(4, 32, 1, 64), DataType::Q8_0))),
        ("damaged.bin", None),
        ("quantized.bin", None),
        ("empty.bin", Some(Vec::new())),
        ("missing.bin", None),
        ("", None),
    ];
    let path = |(name, bytes): (&str, Option<Vec<u8>>)| {
        if let Some(bytes) = bytes {
            directory::write(name, &bytes);
        }
        CString::new(directory::path(name).as_os_str().as_bytes()).expect("a path without zero bytes")
    };
    files.into_iter().map(path).chain([CString::default(), c"\xff\xfe".to_owned()]).collect()
});

fuzz_target!(init: { LazyLock::force(&FILES); }, |data: &[u8]| {
    // SAFETY: NULL is a context that is meant.
    unsafe { rwkv_set_print_errors(ptr::null_mut(), false) };
    directory::write("damaged.bin", &HALF);
    let _ = fs::remove_file(directory::path("quantized.bin"));
    let mut unstructured = Unstructured::new(data);
    let mut slots = Vec::new();
    for _ in 0..24 {
        if unstructured.is_empty() {
            break;
        }
        let Ok(call) = Call::arbitrary(&mut unstructured) else { break };
        make(&call, &mut slots);
    }
    for Slot { ctx, .. } in slots {
        // SAFETY: a context that was not freed.
        unsafe { rwkv_free(ctx) };
    }
    no_fault(ptr::null_mut());
});

/// The errors since this was last asked, of which none is the library's own fault.
fn no_fault(ctx: *mut Context) -> u32 {
    // SAFETY: NULL, or a context that was not freed.
    let flags = unsafe { rwkv_get_last_error(ctx) };
    assert_ne!(flags & 0xff00, FAULT, "{flags:#x}");
    flags
}

fn threads(choice: u8) -> u32 {
    match choice {
        0..200 => 1,
        200..220 => 2,
        220..230 => 3,
        230..240 => 1025,
        240..250 => u32::MAX,
        250.. => 0,
    }
}

fn file(choice: u8) -> *const c_char {
    // One more than there are: NULL.
    FILES.get(choice as usize % (FILES.len() + 1)).map_or(ptr::null(), |path| path.as_ptr())
}

/// A new context, or NULL and a reason.
fn add(slots: &mut Vec<Slot>, ctx: *mut Context) {
    let flags = no_fault(ptr::null_mut());
    assert_eq!(ctx.is_null(), flags != 0, "{flags:#x}");
    if ctx.is_null() {
        return;
    }
    // SAFETY: a context that was just made.
    let len = unsafe { rwkv_get_state_len(ctx) };
    let mut state = array(len);
    // SAFETY: a context, and as many floats as its states have.
    unsafe { rwkv_init_state(ctx, state.as_mut_ptr()) };
    assert!(state.iter().all(|&value| value.to_bits() != UNTOUCHED.to_bits()));
    slots.push(Slot { ctx, state });
}

fn array(len: usize) -> Box<[f32]> {
    vec![UNTOUCHED; len].into()
}

fn make(call: &Call, slots: &mut Vec<Slot>) {
    let count = slots.len();
    // One more than there are: NULL.
    let index = |ctx: u8| ctx as usize % (count + 1);
    let pointer = |ctx: u8| slots.get(index(ctx)).map_or(ptr::null_mut(), |slot| slot.ctx);
    match call {
        Call::Load { file: choice, threads: number, gpu_layers } if count < 4 => {
            // SAFETY: the path is NULL or a string.
            let ctx = unsafe { rwkv_init_from_file(file(*choice), threads(*number), *gpu_layers) };
            add(slots, ctx);
        }
        Call::Clone { ctx, threads: number } if count < 4 => {
            // SAFETY: NULL, or a context that was not freed.
            let ctx = unsafe { rwkv_clone_context(pointer(*ctx), threads(*number)) };
            add(slots, ctx);
        }
        Call::Load { .. } | Call::Clone { .. } => {}
        Call::Free { ctx } => {
            let index = index(*ctx);
            let slot = (index < count).then(|| slots.swap_remove(index));
            // SAFETY: NULL, or a context that was not freed, and is no longer in `slots`.
            unsafe { rwkv_free(slot.map_or(ptr::null_mut(), |slot| slot.ctx)) };
        }
        Call::Eval { ctx, token, arrays } => {
            let token = match token {
                Token::Small(token) => u32::from(token % 8),
                Token::Any(token) => *token,
            };
            evaluate(slots.get_mut(index(*ctx)), arrays, |ctx, state_in, state_out, logits| {
                // SAFETY: the arrays are NULL or as long as the header says.
                unsafe { rwkv_eval(ctx, token, state_in, state_out, logits) }
            });
        }
        Call::Sequence { ctx, tokens, arrays } => {
            let (tokens, len) = tokens.make();
            let tokens = tokens.as_ref().map_or(ptr::null(), |tokens| tokens.as_ptr());
            evaluate(slots.get_mut(index(*ctx)), arrays, |ctx, state_in, state_out, logits| {
                // SAFETY: as above; a length that no array has is refused.
                unsafe { rwkv_eval_sequence(ctx, tokens, len, state_in, state_out, logits) }
            });
        }
        Call::Chunks { ctx, tokens, chunk_size, arrays } => {
            let (tokens, len) = tokens.make();
            let tokens = tokens.as_ref().map_or(ptr::null(), |tokens| tokens.as_ptr());
            let size = *chunk_size as usize;
            evaluate(slots.get_mut(index(*ctx)), arrays, |ctx, state_in, state_out, logits| {
                // SAFETY: as above.
                unsafe { rwkv_eval_sequence_in_chunks(ctx, tokens, len, size, state_in, state_out, logits) }
            });
        }
        Call::Sizes { ctx } => sizes(pointer(*ctx)),
        Call::InitState { ctx, null } => {
            let ctx = pointer(*ctx);
            // SAFETY: NULL, or a context that was not freed.
            let mut state = array(unsafe { rwkv_get_state_len(ctx) });
            no_fault(ctx);
            let state = if *null { ptr::null_mut() } else { state.as_mut_ptr() };
            // SAFETY: a state is as long as those of the context.
            unsafe { rwkv_init_state(ctx, state) };
            assert_eq!(no_fault(ctx) != 0, ctx.is_null() || state.is_null());
        }
        Call::LastError { ctx } => drop(no_fault(pointer(*ctx))),
        Call::PrintErrors { ctx } => {
            let ctx = pointer(*ctx);
            // SAFETY: NULL, or a context that was not freed.
            unsafe {
                rwkv_set_print_errors(ctx, true);
                assert!(rwkv_get_print_errors(ctx));
                rwkv_set_print_errors(ctx, false);
                assert!(!rwkv_get_print_errors(ctx));
            }
        }
        Call::Quantize { input, output, format } => quantize(*input, *output, format),
        Call::Damage { at, to } => {
            let path = directory::path("damaged.bin");
            let mut bytes = fs::read(&path).expect("the damaged file");
            let at = *at as usize % bytes.len();
            bytes[at] = *to;
            // A new file in its place: contexts may have this one.
            fs::remove_file(&path).expect("the damaged file");
            directory::write("damaged.bin", &bytes);
        }
        Call::Info => assert!(!rwkv_get_system_info_string().is_null()),
    }
}

impl Tokens {
    fn make(&self) -> (Option<Box<[u32]>>, usize) {
        let tokens: Box<[u32]> = match self {
            Self::Some(tokens) => tokens.iter().map(|&token| u32::from(token % 6)).collect(),
            Self::Null(len) => return (None, *len as usize),
            Self::Long(len) => (0..u32::from(len % 600)).map(|i| i % 3).collect(),
            Self::WrongLen(long) => return (Some(Box::new([0])), if *long { usize::MAX } else { 0 }),
        };
        let len = tokens.len();
        (Some(tokens), len)
    }
}

/// Calls `eval` with arrays of just the size that the header says. False must leave them untouched.
fn evaluate(
    slot: Option<&mut Slot>,
    arrays: &Arrays,
    eval: impl Fn(*mut Context, *const f32, *mut f32, *mut f32) -> bool,
) {
    let Some(slot) = slot else {
        let null = ptr::null_mut::<Context>();
        assert!(!eval(null, ptr::null(), ptr::null_mut(), ptr::null_mut()) && no_fault(null) != 0);
        return;
    };
    // SAFETY: a context that was not freed, here and below.
    let (state_len, logits_len) = unsafe { (rwkv_get_state_len(slot.ctx), rwkv_get_logits_len(slot.ctx)) };
    let state_in: Option<Box<[f32]>> = match &arrays.state_in {
        StateIn::Null => None,
        StateIn::Last => Some(slot.state.clone()),
        StateIn::Fill(bits) => Some(vec![f32::from_bits(*bits); state_len].into()),
        StateIn::Values(values) => {
            let mut state = slot.state.clone();
            for (place, bits) in state.iter_mut().zip(values) {
                *place = f32::from_bits(*bits);
            }
            Some(state)
        }
    };
    let before = state_in.clone();
    let (mut input, mut output, mut logits) = (state_in, array(state_len), array(logits_len));
    let logits_out = if arrays.logits { logits.as_mut_ptr() } else { ptr::null_mut() };
    // Both may be the same array.
    let same = arrays.state_out == Some(true) && input.is_some();
    let (state_in, state_out) = match (&mut input, arrays.state_out) {
        (Some(input), Some(true)) => (input.as_ptr(), input.as_mut_ptr()),
        (input, Some(_)) => (input.as_ref().map_or(ptr::null(), |input| input.as_ptr()), output.as_mut_ptr()),
        (input, None) => (input.as_ref().map_or(ptr::null(), |input| input.as_ptr()), ptr::null_mut()),
    };
    let done = eval(slot.ctx, state_in, state_out, logits_out);
    let flags = no_fault(slot.ctx);
    assert_eq!(done, flags == 0, "{flags:#x}");
    let untouched = |values: &[f32]| values.iter().all(|&value| value.to_bits() == UNTOUCHED.to_bits());
    if let (Some(input), Some(before), true) = (&input, &before, !done || !same) {
        assert_eq!(bits(input), bits(before), "the state that was read was written to");
    }
    if !done {
        assert!(untouched(&output) && untouched(&logits), "false, and something was written");
        return;
    }
    // Nothing is done for tokens that are NULL.
    if let (Some(after), true) = (arrays.state_out, !untouched(&output) || same) {
        slot.state = if after && same { input.expect("the same array") } else { output };
    }
}

fn sizes(ctx: *mut Context) {
    // SAFETY: NULL, or a context that was not freed.
    let sizes = unsafe {
        [rwkv_get_n_vocab(ctx), rwkv_get_n_embed(ctx), rwkv_get_n_layer(ctx), rwkv_get_state_len(ctx)]
    };
    // SAFETY: the same.
    let (logits, older) = unsafe {
        let older = [rwkv_get_state_buffer_element_count(ctx), rwkv_get_logits_buffer_element_count(ctx)]
            .map(|n| n as usize);
        (rwkv_get_logits_len(ctx), older)
    };
    let [n_vocab, n_embd, n_layer, state] = sizes;
    assert!(logits == n_vocab && older == [state, logits] && state == 5 * n_embd * n_layer);
    assert_eq!(n_vocab == 0, ctx.is_null());
    assert_eq!(no_fault(ctx) != 0, ctx.is_null());
}

fn quantize(input: u8, output: u8, format: &Text) {
    // Not over the sound ones.
    let outputs = [4, 4, 6, 7, 8];
    let output = outputs.get(output as usize % (outputs.len() + 1)).map_or(ptr::null(), |&index| file(index));
    let format = match format {
        Text::Format(choice) => {
            let names = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "FP16", "Q4_2", "q8_0"];
            CString::new(names[*choice as usize % names.len()]).ok()
        }
        Text::Bytes(bytes) => {
            CString::new(bytes.iter().copied().filter(|&byte| byte != 0).collect::<Vec<_>>()).ok()
        }
        Text::Null => None,
    };
    let format = format.as_ref().map_or(ptr::null(), |format| format.as_ptr());
    // SAFETY: each is NULL or a string.
    let done = unsafe { rwkv_quantize_model_file(file(input), output, format) };
    let flags = no_fault(ptr::null_mut());
    assert_eq!(done, flags == 0, "{flags:#x}");
    if directory::path("quantized.bin").exists() {
        directory::age(&directory::path("quantized.bin"));
    }
    // Where "missing.bin" was made, it is missing again.
    let _ = fs::remove_file(directory::path("missing.bin"));
}
