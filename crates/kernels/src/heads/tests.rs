use super::*;
use crate::Isa;
use crate::testing::{assert_close, assert_gradient, every_tier, f64s, set_and_add, values};

const EPS: f32 = 64e-5;

/// (rows, heads, channels of a head).
const SHAPES: [(usize, usize, usize); 6] =
    [(0, 2, 8), (1, 1, 3), (3, 2, 5), (2, 3, 16), (40, 2, 17), (300, 12, 64)];

/// One of the operators: its inputs are x and, of the same shape, y and z; a and b, one number a channel.
#[derive(Clone, Copy, Debug)]
enum Op {
    GroupNorm,
    UnitHeads,
    Bonus,
}

const ALL: [Op; 3] = [Op::GroupNorm, Op::UnitHeads, Op::Bonus];

type Inputs<T> = [Vec<T>; 5];

fn inputs((rows, heads, size): (usize, usize, usize)) -> Inputs<f32> {
    let (len, width) = (rows * heads * size, heads * size);
    [
        values(1, len, 2.0),
        values(2, len, 1.0),
        values(3, len, 1.0),
        values(4, width, 1.0),
        values(5, width, 1.0),
    ]
}

/// The formulas, in f64.
fn exact(op: Op, [x, y, z, a, b]: &Inputs<f64>, size: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for start in (0..x.len()).step_by(size) {
        let (head, c) = (&x[start..start + size], start % a.len());
        let n = size as f64;
        out.extend((0..size).map(|i| match op {
            Op::GroupNorm => {
                let mean = head.iter().sum::<f64>() / n;
                let variance = head.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                (head[i] - mean) / (variance + f64::from(EPS)).sqrt() * a[c + i] + b[c + i]
            }
            Op::UnitHeads => head[i] / head.iter().map(|x| x * x).sum::<f64>().sqrt(),
            Op::Bonus => z[start + i] * (0..size).map(|j| head[j] * y[start + j] * a[c + j]).sum::<f64>(),
        }));
    }
    out
}

fn forward(cpu: &Cpu, op: Op, [x, y, z, a, b]: &Inputs<f32>, size: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len()];
    match op {
        Op::GroupNorm => group_norm(cpu, x, size, a, b, EPS, &mut out),
        Op::UnitHeads => unit_heads(cpu, x, size, &mut out),
        Op::Bonus => bonus(cpu, BonusInputs { r: x, k: y, v: z, p: a, size }, &mut out),
    }
    out
}

/// The result and the five gradients; zeros of what is no input.
fn run(cpu: &Cpu, op: Op, all: &Inputs<f32>, size: usize, dy: &[f32]) -> Vec<Vec<f32>> {
    let [x, y, z, a, _] = all;
    let (len, width) = (x.len(), a.len());
    let (mut da, mut db) = (vec![0.0; width], vec![0.0; width]);
    let zeros = || vec![0.0; len];
    let gradients = match op {
        Op::GroupNorm => {
            let backward = |dx: &mut [f32], store, da: &mut [f32], db: &mut [f32]| {
                group_norm_backward(cpu, x, size, a, EPS, dy, dx, store, da, db);
            };
            backward(&mut zeros(), Store::Add, &mut da, &mut db);
            let dx = set_and_add(len, |dx, store| {
                group_norm_backward(
                    cpu,
                    x,
                    size,
                    a,
                    EPS,
                    dy,
                    dx,
                    store,
                    &mut vec![0.0; width],
                    &mut vec![0.0; width],
                );
            });
            [dx, zeros(), zeros()]
        }
        Op::UnitHeads => {
            [set_and_add(len, |dx, store| unit_heads_backward(cpu, x, size, dy, dx, store)), zeros(), zeros()]
        }
        Op::Bonus => {
            let inputs = BonusInputs { r: x, k: y, v: z, p: a, size };
            let backward = |which: usize, result: &mut [f32], store: Store, dp: &mut [f32]| {
                let (mut one, mut two) = (zeros(), zeros());
                let (one, two) = ((&mut one[..], Store::Add), (&mut two[..], Store::Add));
                let out = match which {
                    0 => [(result, store), one, two],
                    1 => [one, (result, store), two],
                    _ => [one, two, (result, store)],
                };
                bonus_backward(cpu, inputs, dy, out, dp);
            };
            backward(0, &mut zeros(), Store::Add, &mut da);
            [0, 1, 2]
                .map(|which| set_and_add(len, |dx, store| backward(which, dx, store, &mut vec![0.0; width])))
        }
    };
    let [dx, dy_, dz] = gradients;
    vec![forward(cpu, op, all, size), dx, dy_, dz, da, db]
}

#[test]
fn every_tier_and_thread_count_agrees() {
    for (op, shape) in ALL.into_iter().flat_map(|op| SHAPES.map(|shape| (op, shape))) {
        let (all, size) = (inputs(shape), shape.2);
        let dy = values(6, all[0].len(), 1.0);
        let what = format!("{op:?} {shape:?}");
        // Sums over a head and over hundreds of rows, in another order.
        let got = every_tier(&what, 3e-5, |cpu| run(cpu, op, &all, size, &dy));
        assert_close(&what, 1e-5, &got[0], &exact(op, &all.each_ref().map(|x| f64s(x)), size));
    }
}

#[test]
fn the_backward_is_the_derivative() {
    for (op, shape) in
        ALL.into_iter().flat_map(|op| [(1, 1, 3), (3, 2, 5), (2, 1, 17)].map(|shape| (op, shape)))
    {
        let (all, size) = (inputs(shape), shape.2);
        let dy = values(6, all[0].len(), 1.0);
        let got = every_tier(&format!("{op:?}"), 1e-5, |cpu| run(cpu, op, &all, size, &dy));
        let all64 = all.each_ref().map(|x| f64s(x));
        for input in 0..5 {
            assert_gradient(&format!("{op:?} {shape:?}, input {input}"), &all[input], &got[1 + input], |x| {
                let mut all = all64.clone();
                all[input] = x.to_vec();
                exact(op, &all, size).iter().zip(&dy).map(|(y, &dy)| y * f64::from(dy)).sum()
            });
        }
    }
}

/// One token at a time, a chunk, a batch: a row has the same bits.
#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let (rows, heads, size) = (7, 3, 20);
    let (all, width) = (inputs((rows, heads, size)), heads * size);
    for (isa, op) in Isa::available().into_iter().flat_map(|isa| ALL.map(|op| (isa, op))) {
        let cpu = Cpu::new(isa, 1);
        let together = forward(&cpu, op, &all, size);
        for row in 0..rows {
            let [x, y, z, a, b] = &all;
            let [x, y, z] = [x, y, z].map(|x| x[row * width..][..width].to_vec());
            let alone = forward(&cpu, op, &[x, y, z, a.clone(), b.clone()], size);
            assert_eq!(alone, together[row * width..][..width], "{isa}, {op:?}");
        }
    }
}

#[test]
fn a_head_of_zeros_has_a_direction_of_zeros() {
    for isa in Isa::available() {
        let cpu = Cpu::new(isa, 1);
        let (mut y, mut dx) = ([f32::NAN; 8], [f32::NAN; 8]);
        unit_heads(&cpu, &[0.0; 8], 4, &mut y);
        unit_heads_backward(&cpu, &[0.0; 8], 4, &[1e-14; 8], &mut dx, Store::Set);
        assert!(y.iter().all(|y| y.abs() < f32::MIN_POSITIVE), "{isa}: {y:?}");
        assert!(dx.iter().all(|dx| (dx - 1e-2).abs() < 1e-6), "{isa}: {dx:?}");
    }
}

#[test]
fn what_is_infinite_or_overflows_shows() {
    for (isa, op) in Isa::available().into_iter().flat_map(|isa| ALL.map(|op| (isa, op))) {
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 3e38] {
            let mut all = inputs((2, 2, 19));
            all[0][2 * 19 + 7] = bad;
            if bad.is_finite() && matches!(op, Op::Bonus) {
                all[1][2 * 19 + 7] = 3e38;
            }
            let y = forward(&Cpu::new(isa, 1), op, &all, 19);
            for (head, y) in y.chunks(19).enumerate() {
                assert!(y.iter().all(|y| y.is_finite()) == (head != 2), "{isa}, {op:?}, {bad}: {y:?}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "heads of 3 in 8")]
fn heads_that_do_not_fit_are_refused() {
    unit_heads(&Cpu::new(Isa::Scalar, 1), &[0.0; 8], 3, &mut [0.0; 8]);
}
