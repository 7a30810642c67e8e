//! AMX's tile registers, which a thread has to configure before it uses them.

use std::arch::asm;
use std::marker::PhantomData;

/// The most rows of a tile.
pub(super) const ROWS: usize = 16;

/// The most bytes of a tile's row.
pub(super) const ROW_BYTES: usize = 64;

/// This thread's tile registers, configured until this is dropped.
pub(super) struct Tiles {
    /// Another thread's tiles are not configured by this.
    of_this_thread: PhantomData<*const ()>,
}

/// What `ldtilecfg` reads: the rows of each tile and the bytes of a row.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// Configures the tiles 0, 1, … as (rows, bytes of a row), at most 16 × 64 and none of them empty.
    ///
    /// # Safety
    /// The CPU has the tier, and this thread has no other `Tiles`.
    pub(super) unsafe fn configure<const N: usize>(shapes: [(usize, usize); N]) -> Self {
        let mut configuration =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for (tile, (rows, row_bytes)) in shapes.into_iter().enumerate() {
            debug_assert!((1..=ROWS).contains(&rows) && (4..=ROW_BYTES).contains(&row_bytes));
            configuration.rows[tile] = rows as u8;
            configuration.row_bytes[tile] = row_bytes as u16;
        }
        // SAFETY: the instruction reads 64 bytes and changes tiles alone, which no one else uses, by the
        // caller's promise.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, preserves_flags));
        };
        Self { of_this_thread: PhantomData }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the instruction changes tiles alone. A thread without any is cheaper to switch to and from.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}
