//! Training's three matrix products, in f32 and bf16, beside the crate `gemm` on as many threads.
//!
//! `cargo bench -p rwkv-benches --bench linear`; throughput is printed in operations (2·T·K·N) a second.
#![allow(missing_docs)] // of what criterion's macros make

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gemm::Parallelism;
use rwkv_kernels::{Cpu, Isa, Precision, Store, linear, linear_dw, linear_dx};

/// (T, K, N): the products of L4 D128 at 768 tokens a step, then of wider models.
const SHAPES: [[usize; 3]; 5] =
    [[768, 128, 128], [768, 128, 512], [768, 512, 128], [1536, 384, 1536], [1536, 1024, 1024]];

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i % 17) as f32 * 0.1 - 0.8).collect()
}

fn products(c: &mut Criterion) {
    let isa = Isa::from_env().expect("RWKV_ISA names a tier of this machine");
    for [t, k, n] in SHAPES {
        let mut group = c.benchmark_group(format!("T{t} K{k} N{n}"));
        group.throughput(Throughput::Elements(2 * (t * k * n) as u64));
        let (x, w, mut y) = (values(t * k), values(n * k), vec![0.0; t * n]);
        let (dy, mut dx, mut dw) = (values(t * n), vec![0.0; t * k], vec![0.0; n * k]);
        for precision in [Precision::F32, Precision::Bf16] {
            if !precision.is_supported(isa) {
                continue;
            }
            let cpu = Cpu::new(isa, threads()).with_precision(precision);
            let id = |what| BenchmarkId::new(what, format!("{precision:?}"));
            group.bench_function(id("forward"), |b| b.iter(|| linear(&cpu, &x, &w, k, &mut y)));
            group.bench_function(id("dx"), |b| b.iter(|| linear_dx(&cpu, &dy, &w, k, &mut dx, Store::Set)));
            group.bench_function(id("dw"), |b| b.iter(|| linear_dw(&cpu, &dy, &x, k, &mut dw)));
        }
        group.bench_function("forward/gemm crate", |b| b.iter(|| gemm_forward(&x, &w, [t, k, n], &mut y)));
        group.finish();
    }
}

/// `y = x wᵀ` by the crate `gemm`.
fn gemm_forward(x: &[f32], w: &[f32], [t, k, n]: [usize; 3], y: &mut [f32]) {
    assert!(x.len() == t * k && w.len() == n * k && y.len() == t * n);
    let stride = usize::cast_signed;
    // SAFETY: the strides describe the row-major matrices whose lengths were checked above; wᵀ by its swapped
    // strides.
    unsafe {
        gemm::gemm(
            t,
            n,
            k,
            y.as_mut_ptr(),
            1,
            stride(n),
            false,
            x.as_ptr(),
            1,
            stride(k),
            w.as_ptr(),
            stride(k),
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::Rayon(threads()),
        );
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
