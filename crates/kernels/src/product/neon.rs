//! Half precision with NEON: the instructions themselves, because their intrinsics need a type that Rust 1.89 lacks.

use std::arch::aarch64::{float32x4_t, uint16x4_t};
use std::arch::asm;

/// From half precision, exactly.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
pub(super) unsafe fn widen(halves: uint16x4_t) -> float32x4_t {
    let floats: float32x4_t;
    // SAFETY: the CPU has the instruction; it touches no memory.
    unsafe {
        asm!(
            "fcvtl {floats:v}.4s, {halves:v}.4h",
            floats = out(vreg) floats, halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    floats
}

/// To half precision, to the nearest, ties to even.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
pub(super) unsafe fn narrow(floats: float32x4_t) -> uint16x4_t {
    let halves: uint16x4_t;
    // SAFETY: as above.
    unsafe {
        asm!(
            "fcvtn {halves:v}.4h, {floats:v}.4s",
            halves = out(vreg) halves, floats = in(vreg) floats,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    halves
}
