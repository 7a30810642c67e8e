//! Whether this process may use AMX.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::OnceLock;

/// The number of the tiles' state component (XTILEDATA) in XCR0.
const XTILEDATA: u64 = 18;

/// Whether the CPU multiplies tiles of bytes and of bf16 numbers and the operating system saves them; found
/// out once.
///
/// Linux allows tiles only to a process that asks for them, because each of its threads that uses them then
/// needs 8 KB more of saved state. The permission is the process's: all its threads have it, those there are
/// and those to come.
pub(super) fn is_usable() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| cpu_has_tiles() && system_saves_tiles() && permission())
}

/// AMX-BF16, AMX-TILE and AMX-INT8, which come together so far, and tiles of the sizes that the kernels
/// configure.
#[allow(unused_unsafe)] // newer compilers know that every x86-64 has the instruction
fn cpu_has_tiles() -> bool {
    const BF16_TILE_AND_INT8: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    // SAFETY: every x86-64 has the instruction; leaves that it does not have are not read.
    let (last, features, palettes, palette) = unsafe {
        (__cpuid(0).eax, __cpuid_count(7, 0).edx, __cpuid_count(0x1d, 0).eax, __cpuid_count(0x1d, 1))
    };
    // Palette 1: the bytes of a tile (high half of eax), and of a row, the number of tiles, and of rows.
    let (tile_bytes, row_bytes, tiles) = (palette.eax >> 16, palette.ebx & 0xffff, palette.ebx >> 16);
    last >= 0x1d
        && features & BF16_TILE_AND_INT8 == BF16_TILE_AND_INT8
        && palettes >= 1
        && (tile_bytes, row_bytes) == (1024, 64)
        && tiles >= 8
        && palette.ecx & 0xffff >= 16
}

/// Whether the operating system has enabled both state components, configuration and data.
fn system_saves_tiles() -> bool {
    #[target_feature(enable = "xsave")]
    fn enabled() -> u64 {
        // SAFETY: register 0 exists where there is the instruction.
        unsafe { _xgetbv(0) }
    }
    const BOTH: u64 = 1 << (XTILEDATA - 1) | 1 << XTILEDATA;
    // SAFETY: the feature has just been found, and it says that the system has switched the instruction on.
    std::is_x86_feature_detected!("xsave") && unsafe { enabled() } & BOTH == BOTH
}

/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)`. Kernels before 5.16 do not know it, and one that does
/// refuses if a thread's alternative signal stack could not hold tiles.
fn permission() -> bool {
    const ARCH_PRCTL: u64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    let answer: i64;
    // SAFETY: the call reads and writes none of the process's memory; it clobbers rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => answer,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer == 0
}
