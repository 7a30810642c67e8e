//! Our side of `products.py`: for each line `T K N PRODUCT SECONDS` on standard input, which product of
//! training in f32 and how long to repeat it, a line with billions of operations (2·T·K·N) a second. PRODUCT
//! is `forward`, `dx`, `dw`, each with its packing; `packed-forward`, `packed-dx`, `packed-dw` without it, as
//! training multiplies; or `peak`, multiply-adds in registers on all threads.
#![allow(missing_docs)] // a program

use std::io::{BufRead, Write};
use std::time::Instant;

use rwkv_kernels::{
    Cpu, Isa, PackedDw, Packing, Precision, RowsOf, Store, fma_peak, linear, linear_dw, linear_dw_packed,
    linear_dx, linear_dx_packed, linear_packed, pack_rows, pack_weights, packed_len,
};

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i % 17) as f32 * 0.1 - 0.8).collect()
}

/// Billions of operations a second, of the fastest call: what else runs on a machine makes calls slower only.
fn rate(operations: usize, seconds: f64, mut call: impl FnMut()) -> f64 {
    call();
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed().as_secs_f64() < seconds {
        let begin = Instant::now();
        call();
        best = best.min(begin.elapsed().as_secs_f64());
    }
    operations as f64 / best / 1e9
}

fn rows(cpu: &Cpu, packing: Packing, data: &[f32], cols: usize) -> Vec<f32> {
    let of = data.len() / cols;
    let mut out = vec![0.0; packed_len(cpu, packing, of, cols)];
    pack_rows(cpu, data, cols, RowsOf { first: 0, of }, [(packing, &mut *out)]);
    out
}

fn weights(cpu: &Cpu, packing: Packing, data: &[f32], cols: usize) -> Vec<f32> {
    let mut out = vec![0.0; packed_len(cpu, packing, data.len() / cols, cols)];
    pack_weights(cpu, packing, vec![(data, cols, &mut out)]);
    out
}

fn measure(cpu: &Cpu, [t, k, n]: [usize; 3], product: &str, seconds: f64) -> f64 {
    let operations = 2 * t * k * n;
    let (x, w, dy) = (values(t * k), values(n * k), values(t * n));
    let mut out = vec![0.0; (t * n).max(t * k).max(n * k)];
    match product {
        "forward" => rate(operations, seconds, || linear(cpu, &x, &w, k, &mut out[..t * n])),
        "dx" => rate(operations, seconds, || linear_dx(cpu, &dy, &w, k, &mut out[..t * k], Store::Set)),
        "dw" => rate(operations, seconds, || linear_dw(cpu, &dy, &x, k, &mut out[..n * k])),
        "packed-forward" => {
            let (x, w) = (rows(cpu, Packing::Rows, &x, k), weights(cpu, Packing::Forward, &w, k));
            rate(operations, seconds, || linear_packed(cpu, &x, &w, [n, k], &mut out[..t * n]))
        }
        "packed-dx" => {
            let (dy, w) = (rows(cpu, Packing::Rows, &dy, n), weights(cpu, Packing::Backward, &w, k));
            let out = &mut out[..t * k];
            rate(operations, seconds, || linear_dx_packed(cpu, &dy, &w, [n, k], out, Store::Set))
        }
        "packed-dw" => {
            let (dy, x) = (rows(cpu, Packing::Output, &dy, n), rows(cpu, Packing::Input, &x, k));
            let dw = &mut out[..n * k];
            rate(operations, seconds, || {
                linear_dw_packed(cpu, &mut [PackedDw { terms: vec![(t, &dy, &x)], k, dw: &mut *dw }]);
            })
        }
        other => panic!("a product of training, or peak: {other}"),
    }
}

fn main() {
    let isa = Isa::from_env().expect("RWKV_ISA names a tier of this machine");
    let threads = std::thread::available_parallelism().map_or(1, Into::into);
    let cpu = Cpu::new(isa, threads).with_precision(Precision::F32);
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("a line");
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<usize>().expect("a number");
        let seconds = words[4].parse().expect("seconds");
        let shape = [number(0), number(1), number(2)];
        let rate = match words[3] {
            "peak" => fma_peak(&cpu, seconds),
            product => measure(&cpu, shape, product, seconds),
        };
        println!("{rate}");
        std::io::stdout().flush().expect("somebody reads");
    }
}
