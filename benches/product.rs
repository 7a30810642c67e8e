//! Inference's product in every format: one token (bound by memory) and a chunk of 64; and what memory gives
//! beside it.
//!
//! `cargo bench -p rwkv-benches --bench product`; throughput is printed in bytes of weights read a second for
//! one token, in operations a second for 64.
#![allow(missing_docs)] // of what criterion's macros make

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rwkv_kernels::{
    Cpu, DataType, Isa, Matrix, Panels, Product, ProductScratch, Weights, products, read_sum,
};

/// (inputs, outputs): a small model's, and one larger than the caches.
const SHAPES: [[usize; 2]; 2] = [[128, 512], [2048, 16384]];

/// Every byte of the weights. Memory that was only ever zero would be one page, and come from the caches.
const BYTE: u8 = 0x11;

fn cpu() -> Cpu {
    let isa = Isa::from_env().expect("RWKV_ISA names a tier of this machine");
    Cpu::new(isa, std::thread::available_parallelism().map_or(1, Into::into))
}

fn every_product(c: &mut Criterion) {
    let cpu = cpu();
    for [cols, rows] in SHAPES {
        let mut group = c.benchmark_group(format!("{cols} to {rows}"));
        for format in DataType::EVERY {
            let stored = vec![BYTE; format.row_bytes(cols).map_or(0, |row| row * rows)];
            let Some(weights) = Weights::new(format, rows, cols, &stored) else { continue };
            let mut packed = vec![0; Panels::len(format, rows, cols).unwrap_or(0)];
            let matrix = if format.is_quantized() {
                Matrix::Panels(Panels::pack(&cpu, weights, &mut packed))
            } else {
                Matrix::Rows(weights)
            };
            let mut scratch = ProductScratch::default();
            for tokens in [1, 64] {
                let (x, mut y) = (vec![0.5; tokens * cols], vec![0.0; tokens * rows]);
                group.throughput(match tokens {
                    1 => Throughput::Bytes(stored.len() as u64),
                    _ => Throughput::Elements(2 * (tokens * cols * rows) as u64),
                });
                let id = BenchmarkId::new(format!("{format:?}"), format!("{tokens} tokens"));
                group.bench_function(id, |b| {
                    b.iter(|| products(&cpu, &mut scratch, [Product { matrix, x: &x, y: &mut y }]));
                });
            }
        }
        group.finish();
    }
}

/// The limit of one token's product.
fn memory(c: &mut Criterion) {
    let (cpu, x) = (cpu(), vec![1.0; 1 << 26]);
    let mut group = c.benchmark_group("memory");
    group.throughput(Throughput::Bytes(size_of_val(&x[..]) as u64));
    group.bench_function("read_sum", |b| b.iter(|| read_sum(&cpu, &x)));
    group.finish();
}

criterion_group!(benches, every_product, memory);
criterion_main!(benches);
