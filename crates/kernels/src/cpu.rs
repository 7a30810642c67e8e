//! Where a kernel runs: an instruction set and a team of threads.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

#[cfg(target_arch = "x86_64")]
use crate::isa::Vectors;
use crate::{Isa, Team};

/// An instruction set and a team of threads; the first argument of every kernel. Clones share the team.
#[derive(Clone, Debug)]
pub struct Cpu {
    isa: Isa,
    precision: Precision,
    team: Arc<Team>,
}

/// Precision of the operands of training's matrix products; sums, and everything else, are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Activations, weights and gradients as they are.
    #[default]
    F32,
    /// Rounded to bf16: f32's range and eight bits of precision, at up to twice the speed, see
    /// [`fastest`](Self::fastest).
    Bf16,
}

impl Precision {
    /// The one in which this CPU multiplies faster in the tier `isa`.
    ///
    /// AMD's CPUs with AVX-512 BF16 (Zen 4 and later) make twice as many multiply-adds of bf16 as of f32. Intel's make
    /// at most as many: on a Xeon of model 207 training is 1.3 to 1.5 times as fast in f32, and PyTorch's products
    /// are twice as fast. (Their fast ones are AMX, which training does not use.)
    pub fn fastest(isa: Isa) -> Self {
        if Self::Bf16.is_supported(isa) && !is_of_intel() { Self::Bf16 } else { Self::F32 }
    }

    /// Whether this CPU multiplies such numbers, in the tier `isa`.
    pub fn is_supported(self, isa: Isa) -> bool {
        match self {
            Self::F32 => isa.is_supported(),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16 => {
                isa.is_supported()
                    && isa.vectors() == Vectors::Avx512
                    && std::is_x86_feature_detected!("avx512bf16")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Bf16 => false,
        }
    }
}

/// Whether CPUID names Intel as the maker.
fn is_of_intel() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        #[allow(unused_unsafe)] // newer compilers know that every x86-64 has the instruction
        // SAFETY: every x86-64 has the instruction and its first leaf.
        let maker = unsafe { std::arch::x86_64::__cpuid(0) };
        [maker.ebx, maker.edx, maker.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

impl Cpu {
    /// A CPU that uses `isa` on `threads` threads (at least one).
    ///
    /// # Panics
    /// If this machine does not have `isa`: every `unsafe` call into a tier rests on this check.
    pub fn new(isa: Isa, threads: usize) -> Self {
        assert!(isa.is_supported(), "this CPU does not have {isa}");
        Self { isa, precision: Precision::F32, team: Arc::new(Team::new(threads)) }
    }

    /// The same CPU and team with training's products in `precision`.
    ///
    /// # Panics
    /// If the tier does not have it; see [`Precision::is_supported`].
    #[must_use]
    pub fn with_precision(&self, precision: Precision) -> Self {
        assert!(precision.is_supported(self.isa), "{} on this CPU does not multiply {precision:?}", self.isa);
        Self { precision, ..self.clone() }
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Precision of the operands of training's products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The number of threads in use.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// Runs `body(index)` for every index below `count`, shared among the team. See [`Team::run`].
    pub fn run(&self, count: usize, body: impl Fn(usize) + Sync) {
        self.team.run(count, body);
    }

    /// What `body(index)` returns for every index below `count`, in order; shared among the team as by
    /// [`run`](Self::run).
    pub fn map<T: Send>(&self, count: usize, body: impl Fn(usize) -> T + Sync) -> Vec<T> {
        let mut results: Vec<Option<T>> = (0..count).map(|_| None).collect();
        let parts = Parts::new(&mut results);
        self.run(count, |index| {
            // SAFETY: `run` gives each index to one call.
            let result = unsafe { parts.item(index) };
            *result = Some(body(index));
        });
        results.into_iter().flatten().collect()
    }

    /// Calls `body` with every item, shared among the team as by [`run`](Self::run).
    pub fn for_each<T: Send>(&self, items: &mut [T], body: impl Fn(&mut T) + Sync) {
        let count = items.len();
        let items = Parts::new(items);
        // SAFETY: `run` gives each index to one call.
        self.run(count, |index| body(unsafe { items.item(index) }));
    }

    /// Cuts `0..len` into ranges of `block` (the last may be shorter) and runs `body` on each.
    ///
    /// The cut depends on `len` and `block` alone, never on the number of threads.
    pub fn run_blocks(&self, len: usize, block: usize, body: impl Fn(Range<usize>) + Sync) {
        self.team.run(len.div_ceil(block), |index| {
            let start = index * block;
            body(start..len.min(start + block));
        });
    }
}

/// A slice of which the threads of a loop each take their own part.
///
/// It carries the exclusive borrow that the parts are carved from, so that only disjointness is left to
/// promise.
#[derive(Clone, Copy)]
pub struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Parts` gives out `&mut [T]` only through `part`, whose caller promises that no two overlap;
// sending those to other threads is sound for `T: Send`.
unsafe impl<T: Send> Send for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    /// Borrows `slice` for as long as parts of it are in use.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// While the returned slice lives, no other part that overlaps `range` may be taken.
    ///
    /// # Panics
    /// If `range` is not within the slice.
    #[allow(clippy::mut_from_ref)] // the exclusive borrow is the one that `new` took
    #[inline]
    pub unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: in bounds by the assertion; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// The element at `index`.
    ///
    /// # Safety
    /// While the returned reference lives, no part that holds `index` may be taken.
    ///
    /// # Panics
    /// If `index` is not within the slice.
    #[allow(clippy::mut_from_ref)] // as above
    #[inline]
    pub unsafe fn item(&self, index: usize) -> &'a mut T {
        assert!(index < self.len, "{index} of {}", self.len);
        // SAFETY: in bounds by the assertion; exclusive by the caller's promise.
        unsafe { &mut *self.start.add(index) }
    }
}
