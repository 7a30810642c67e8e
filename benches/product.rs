//! Inference's product on weights as files hold them: one token (bound by memory) and a chunk of 64.
//!
//! `cargo bench -p rwkv-benches --bench product`; throughput is printed in bytes of weights read a second for one token,
//! in operations a second for 64.
#![allow(missing_docs)] // of what criterion's macros make

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rwkv_kernels::{Cpu, Format, Isa, Weights, product};

/// (inputs, outputs): a small model's, and one larger than the caches.
const SHAPES: [[usize; 2]; 2] = [[128, 512], [2048, 16384]];

fn products(c: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(1, Into::into);
    let cpu = Cpu::new(Isa::detect(), threads);
    for [cols, rows] in SHAPES {
        let mut group = c.benchmark_group(format!("{cols} to {rows}"));
        for format in [Format::F32, Format::F16] {
            let bytes = vec![0_u8; format.row_bytes(cols).map_or(0, |row| row * rows)];
            let Some(weights) = Weights::new(format, rows, cols, &bytes) else { continue };
            for tokens in [1, 64] {
                let (x, mut y) = (vec![0.5; tokens * cols], vec![0.0; tokens * rows]);
                group.throughput(match tokens {
                    1 => Throughput::Bytes(bytes.len() as u64),
                    _ => Throughput::Elements(2 * (tokens * cols * rows) as u64),
                });
                let id = BenchmarkId::new(format!("{format:?}"), format!("{tokens} tokens"));
                group.bench_function(id, |b| b.iter(|| product(&cpu, weights, &x, &mut y)));
            }
        }
        group.finish();
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
