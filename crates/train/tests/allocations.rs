//! A warm tape allocates no tensor.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rwkv_core::ModelConfig;
use rwkv_core::model::Network;
use rwkv_kernels::{Cpu, Isa};
use rwkv_train::init::initialize;
use rwkv_train::tape::Tape;

/// The system's allocator, which records the largest block that was asked of it.
struct Watched;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

// The only test of its binary: no other thread allocates meanwhile.
#[test]
fn the_second_pass_allocates_no_tensor() {
    const ROWS: usize = 48;
    let config = ModelConfig::v4(32, 32, 2);
    let (network, layout, _) = Network::new(&config);
    let cpu = Arc::new(Cpu::new(Isa::detect(), 1));
    let params = initialize(&cpu, &layout, 1);
    let mut tape = Tape::new(cpu, &layout, params);
    let tokens: Vec<u32> = (0..ROWS as u32).map(|i| i * i % 32).collect();
    let mut pass = || {
        LARGEST.store(0, Ordering::Relaxed);
        tape.begin(&tokens, 16);
        let logits = network.forward(&mut tape);
        tape.cross_entropy(logits, &tokens);
        tape.backward();
        (LARGEST.load(Ordering::Relaxed), tape.reserved())
    };
    let [(_, first), second, third] = [pass(), pass(), pass()];
    println!(
        "{first} floats after the first pass, and the largest allocations of later ones: {second:?} {third:?}"
    );
    let tensor = ROWS * config.n_embd * size_of::<f32>();
    assert!(first * size_of::<f32>() >= 20 * tensor, "tensors are taken from elsewhere");
    // Kernels take small blocks for the partial sums of their threads.
    assert!([second, third].iter().all(|&(bytes, floats)| bytes < tensor && floats == first));
    drop(std::hint::black_box(vec![0_u8; 2 * tensor]));
    assert!(LARGEST.load(Ordering::Relaxed) >= 2 * tensor, "the allocator is not watched");
}
