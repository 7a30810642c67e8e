#![allow(clippy::single_range_in_vec_init)] // one segment of many rows

use super::*;
use crate::testing::{assert_close, assert_gradient, dot, every_tier, f64s, values};
use crate::{Isa, Store};

/// (rows, heads, channels of a head).
fn shapes() -> Vec<(usize, usize, usize)> {
    let sizes = [(1, 1), (2, 3), (3, 4), (2, 8), (1, 17), (2, 64)];
    sizes.into_iter().flat_map(|(heads, n)| [0, 1, 2, 40].map(|rows| (rows, heads, n))).collect()
}

/// r, w, k, v, κ, a as a model makes them: w in (0.55, 1), κ of length 1 in each head, a in (0, 1).
fn inputs(rows: usize, heads: usize, n: usize) -> [Vec<f32>; 6] {
    let len = rows * heads * n;
    let mut all = [1, 2, 3, 4, 5, 6].map(|seed| values(seed, len, 1.0));
    all[1].iter_mut().for_each(|w| *w = 0.775 + 0.225 * *w);
    for kk in all[4].chunks_mut(n) {
        let length = kk.iter().map(|x| x * x).sum::<f32>().sqrt();
        for kk in kk {
            *kk /= length;
        }
    }
    all[5].iter_mut().for_each(|a| *a = 0.5 + 0.5 * *a);
    all
}

fn given(all: &[Vec<f32>; 6], width: usize, head: usize) -> Wkv7Inputs<'_> {
    let [r, w, k, v, kk, a] = all;
    Wkv7Inputs { r, w, k, v, kk, a, width, head }
}

/// The matrices of the equation as they stand, in f64: y and the last state. One segment.
fn exact(state: &[f64], all: &[Vec<f64>; 6], width: usize, n: usize) -> (Vec<f64>, Vec<f64>) {
    let [r, w, k, v, kk, a] = all;
    let (mut state, mut y) = (state.to_vec(), vec![0.0; r.len()]);
    for at in (0..r.len()).step_by(n) {
        let s = &mut state[at % width * n..(at % width + n) * n];
        // S (diag(w) − κ (κ ⊙ a)ᵀ) + v kᵀ, the factor as a matrix (N, N).
        let factor = |l: usize, j: usize| {
            let diagonal = if l == j { w[at + j] } else { 0.0 };
            diagonal - kk[at + l] * kk[at + j] * a[at + j]
        };
        let before = s.to_vec();
        for i in 0..n {
            for j in 0..n {
                let moved: f64 = (0..n).map(|l| before[i * n + l] * factor(l, j)).sum();
                s[i * n + j] = moved + v[at + i] * k[at + j];
            }
            y[at + i] = (0..n).map(|j| s[i * n + j] * r[at + j]).sum();
        }
    }
    (y, state)
}

fn segments(rows: usize) -> [Range<usize>; 3] {
    [0..rows / 3, rows / 3..rows / 3, rows / 3..rows]
}

/// y and the states after three segments.
fn run(
    cpu: &Cpu,
    (rows, heads, n): (usize, usize, usize),
    all: &[Vec<f32>; 6],
    from: &[f32],
) -> Vec<Vec<f32>> {
    let width = heads * n;
    let mut y = vec![f32::NAN; rows * width];
    let mut left = vec![vec![f32::NAN; width * n]; 3];
    let mut states: Vec<_> = left.iter_mut().map(|to| Wkv7State { from: Some(from), to }).collect();
    wkv7(cpu, &segments(rows), &mut states, given(all, width, n), &mut y);
    // The same in place.
    let (mut again, mut moved) = (vec![f32::NAN; rows * width], vec![from.to_vec(); 3]);
    let mut states: Vec<_> = moved.iter_mut().map(|to| Wkv7State { from: None, to }).collect();
    wkv7(cpu, &segments(rows), &mut states, given(all, width, n), &mut again);
    assert_eq!((&y, &left), (&again, &moved));
    [vec![y], left].concat()
}

#[test]
fn every_tier_and_thread_count_agrees() {
    for shape @ (rows, heads, n) in shapes() {
        let (all, width) = (inputs(rows, heads, n), heads * n);
        let from = values(7, width * n, 1.0);
        let got = every_tier("wkv7", 2e-5, |cpu| run(cpu, shape, &all, &from));
        for (segment, left) in segments(rows).into_iter().zip(&got[1..]) {
            let range = segment.start * width..segment.end * width;
            let part = all.each_ref().map(|x| f64s(&x[range.clone()]));
            let (y, state) = exact(&f64s(&from), &part, width, n);
            assert_close("y", 1e-5, &got[0][range], &y);
            assert_close("state", 1e-5, left, &state);
        }
    }
}

#[test]
fn without_states_segments_start_from_zeros() {
    let (rows, heads, n) = (7, 2, 8);
    let (all, zeros) = (inputs(rows, heads, n), vec![0.0; heads * n * n]);
    every_tier("wkv7", 1e-5, |cpu| {
        let mut y = vec![f32::NAN; rows * heads * n];
        wkv7(cpu, &segments(rows), &mut [], given(&all, heads * n, n), &mut y);
        assert_eq!(y, run(cpu, (rows, heads, n), &all, &zeros)[0]);
        vec![y]
    });
}

/// However a text is cut.
#[test]
fn chunks_with_a_carried_state_equal_the_whole_to_the_last_bit() {
    let (rows, heads, n) = (40, 3, 20);
    let (all, width) = (inputs(rows, heads, n), heads * n);
    for isa in Isa::available() {
        let cpu = Cpu::new(isa, 2);
        let mut whole = (vec![f32::NAN; rows * width], vec![0.0; width * n]);
        let state = Wkv7State { from: None, to: &mut whole.1 };
        wkv7(&cpu, &[0..rows], &mut [state], given(&all, width, n), &mut whole.0);
        for chunk in [1, 7, 16, 39] {
            let mut chunked = (vec![f32::NAN; rows * width], vec![0.0; width * n]);
            for start in (0..rows).step_by(chunk) {
                let range = start * width..rows.min(start + chunk) * width;
                let part = all.each_ref().map(|x| x[range.clone()].to_vec());
                let state = Wkv7State { from: None, to: &mut chunked.1 };
                let rows = range.len() / width;
                wkv7(&cpu, &[0..rows], &mut [state], given(&part, width, n), &mut chunked.0[range]);
            }
            assert_eq!(chunked, whole, "{isa}, chunks of {chunk}");
        }
    }
}

/// The six gradients and those of the states of three segments.
fn backward(
    cpu: &Cpu,
    shape: (usize, usize, usize),
    all: &[Vec<f32>; 6],
    from: &[f32],
    dy: &[f32],
) -> Vec<Vec<f32>> {
    let (rows, heads, n) = shape;
    let width = heads * n;
    // Into `result` that of one input; and those of the states.
    let run = |out: usize, result: &mut [f32], store: Store, of_states: &mut Vec<Vec<f32>>| {
        let mut others = vec![vec![0.0; rows * width]; 6];
        let mut parts: Vec<_> = others.iter_mut().map(|other| (other.as_mut_slice(), Store::Add)).collect();
        parts[out] = (result, store);
        let [dr, dw, dk, dv, dkk, da] = parts.try_into().expect("six");
        let mut slices: Vec<_> = of_states.iter_mut().map(Vec::as_mut_slice).collect();
        let wanted = Wkv7Gradients { dr, dw, dk, dv, dkk, da, dstates: &mut slices };
        wkv7_backward(cpu, &segments(rows), &[from; 3], given(all, width, n), dy, wanted);
    };
    let mut gradients: Vec<_> = (0..6)
        .map(|out| {
            let (mut set, mut added) = (vec![f32::NAN; rows * width], vec![0.5; rows * width]);
            run(out, &mut set, Store::Set, &mut vec![]);
            run(out, &mut added, Store::Add, &mut vec![]);
            // The sum over the rows of S begins with what is there.
            let want: Vec<_> = set.iter().map(|&set| 0.5 + f64::from(set)).collect();
            assert_close("added", 1e-6, &added, &want);
            set
        })
        .collect();
    let mut dstates = vec![vec![0.0; width * n]; 3];
    run(0, &mut vec![0.0; rows * width], Store::Set, &mut dstates);
    gradients.append(&mut dstates);
    gradients
}

#[test]
fn the_backward_is_the_derivative() {
    // More rows than are computed again at a time, in the last segment.
    for shape @ (rows, heads, n) in [(1, 1, 1), (7, 2, 5), (55, 1, 6), (6, 1, 18)] {
        let (all, width) = (inputs(rows, heads, n), heads * n);
        let (from, dy) = (values(7, width * n, 1.0), values(8, rows * width, 1.0));
        let got = every_tier("wkv7_backward", 5e-5, |cpu| backward(cpu, shape, &all, &from, &dy));
        let loss = |states: [&[f64]; 3], all: &[Vec<f64>; 6]| -> f64 {
            let parts = segments(rows).into_iter().zip(states).map(|(segment, state)| {
                let range = segment.start * width..segment.end * width;
                let part = all.each_ref().map(|x| x[range.clone()].to_vec());
                dot(&exact(state, &part, width, n).0, &dy[range])
            });
            parts.sum()
        };
        let (all64, from64) = (all.each_ref().map(|x| f64s(x)), f64s(&from));
        for (i, name) in ["dr", "dw", "dk", "dv", "dkk", "da"].into_iter().enumerate() {
            assert_gradient(name, &all[i], &got[i], |x| {
                let mut all = all64.clone();
                all[i] = x.to_vec();
                loss([&from64; 3], &all)
            });
        }
        for segment in 0..3 {
            assert_gradient("dstate", &from, &got[6 + segment], |x| {
                let mut states = [from64.as_slice(); 3];
                states[segment] = x;
                loss(states, &all64)
            });
        }
    }
}

/// In its own output, and in every later one.
#[test]
fn an_infinite_input_shows() {
    let (rows, heads, n) = (4, 2, 19);
    let width = heads * n;
    for isa in Isa::available() {
        for (input, bad) in (0..6).flat_map(|input| [f32::INFINITY, f32::NAN].map(|bad| (input, bad))) {
            let mut all = inputs(rows, heads, n);
            all[input][width + n + 5] = bad;
            let mut y = vec![0.0; rows * width];
            wkv7(&Cpu::new(isa, 1), &[0..rows], &mut [], given(&all, width, n), &mut y);
            let shows =
                |row: usize, head: usize| y[row * width + head * n..][..n].iter().any(|y| !y.is_finite());
            assert!(shows(1, 1) && !shows(1, 0) && !shows(0, 1), "{isa}, input {input}, {bad}");
            assert!(input == 0 || (shows(2, 1) && shows(3, 1)), "{isa}, input {input}, {bad}");
        }
    }
}

#[test]
#[should_panic(expected = "heads of 3 in 8")]
fn heads_that_do_not_fit_are_refused() {
    let all = inputs(1, 1, 8);
    wkv7(&Cpu::new(Isa::Scalar, 1), &[0..1], &mut [], given(&all, 8, 3), &mut [0.0; 8]);
}
