//! The gradients of [`wkv4`](super::wkv4).

use std::ops::Range;

use super::{EMPTY, Wkv4Inputs, for_each_tile, weigh};
use crate::exp::{exp_nonpositive, scalar_exp};
use crate::simd::{Operation, Simd, dispatch};
use crate::{Cpu, Parts, Store};

/// Where [`wkv4_backward`] leaves its gradients.
#[derive(Debug)]
pub struct Wkv4Gradients<'a, 'b> {
    /// (width), added to: by w itself, so that d time_decay = dw·w.
    pub dw: &'a mut [f32],
    /// (width), added to.
    pub du: &'a mut [f32],
    /// (rows, width), set or added to.
    pub dk: &'a mut [f32],
    /// What is done with dk.
    pub dk_store: Store,
    /// (rows, width), set or added to.
    pub dv: &'a mut [f32],
    /// What is done with dv.
    pub dv_store: Store,
    /// One for each segment, laid out as its state and added to; or none, if they are not wanted.
    pub dstates: &'a mut [&'b mut [f32]],
}

/// The gradients of [`wkv4`](super::wkv4): `dk` and `dv` (rows, width) are set or added to, `dw` and `du`
/// (width) are added to, the segments in order, and the gradients by the states that the segments started
/// from are added to `dstates[i][at..at + 3·width]`.
///
/// `states[i][at..at + 3·width]` holds aa, bb and pp as the forward found them, before it moved them; with no
/// states every segment started from the initial state. `y` is what the forward gave. The states that the
/// forward left are taken to be used by nothing else: no gradient comes in through them.
///
/// The first pass goes forward in time with the recurrence and the derivatives `ga`, `gb` of aa and bb by w;
/// it keeps, of each step, `q = dy/denominator` and the exponent `p` that it is relative to. The second goes
/// back: `a·exp(p)` and `b·exp(p)` gather what something that enters the two sums does to all later outputs.
/// At the segment's start they are the gradients by the sums aa·exp(pp) and bb·exp(pp), from which those by
/// aa, bb and pp follow. All three are 0 where pp = −1e30: nothing moves the initial state.
///
/// # Panics
/// If the lengths disagree, or the segments are not in ascending order.
pub fn wkv4_backward(
    cpu: &Cpu,
    segments: &[Range<usize>],
    states: &[&[f32]],
    at: usize,
    inputs: Wkv4Inputs<'_>,
    y: &[f32],
    dy: &[f32],
    gradients: Wkv4Gradients<'_, '_>,
) {
    let width = inputs.check(segments);
    let Wkv4Gradients { dw, du, dk, dk_store, dv, dv_store, dstates } = gradients;
    for other in [dw.len(), du.len()] {
        assert_eq!(other, width);
    }
    for other in [y.len(), dy.len(), dk.len(), dv.len()] {
        assert_eq!(other, inputs.k.len());
    }
    for (count, what) in [(states.len(), "state"), (dstates.len(), "state's gradient")] {
        assert!(count == 0 || count == segments.len(), "a {what} for each segment, or none");
    }
    let (dk, dv) = (Parts::new(dk), Parts::new(dv));
    let states: Vec<_> = states.iter().map(|state| &state[at..at + 3 * width]).collect();
    let dstates: Vec<_> =
        dstates.iter_mut().map(|dstate| Parts::new(&mut dstate[at..at + 3 * width])).collect();
    // (segments, 2, width): each segment's dw and du.
    let mut sums = vec![0.0; segments.len() * 2 * width];
    let parts = Parts::new(&mut sums);
    for_each_tile(cpu, segments.len(), width, inputs.k.len(), |segment, channels| {
        let at = segment * 2 * width;
        // SAFETY: this tile of this segment has these sums to itself.
        let [dw, du] =
            [at, at + width].map(|at| unsafe { parts.part(at + channels.start..at + channels.end) });
        let rows = segments[segment].clone();
        let (state, dstate) = (states.get(segment).copied(), dstates.get(segment).copied());
        let operation =
            Backward { rows, channels, state, inputs, y, dy, dw, du, dk, dk_store, dv, dv_store, dstate };
        dispatch(cpu.isa(), operation);
    });
    for sums in sums.chunks_exact(2 * width) {
        dw.iter_mut().zip(&sums[..width]).for_each(|(dw, sum)| *dw += sum);
        du.iter_mut().zip(&sums[width..]).for_each(|(du, sum)| *du += sum);
    }
}

/// One segment, one tile of channels. `dw` and `du` have the tile's channels; of `dk`, `dv` and `dstate` only
/// the segment's rows and the tile's channels are touched.
struct Backward<'a> {
    rows: Range<usize>,
    channels: Range<usize>,
    state: Option<&'a [f32]>,
    inputs: Wkv4Inputs<'a>,
    y: &'a [f32],
    dy: &'a [f32],
    dw: &'a mut [f32],
    du: &'a mut [f32],
    dk: Parts<'a, f32>,
    dk_store: Store,
    dv: Parts<'a, f32>,
    dv_store: Store,
    dstate: Option<Parts<'a, f32>>,
}

/// What the first pass keeps of a step.
#[derive(Clone, Copy)]
struct Step {
    q: f32,
    /// The exponent that numerator and denominator are relative to.
    p: f32,
    /// exp(u + k − p).
    e2: f32,
}

impl Operation for Backward<'_> {
    type Output = ();

    fn scalar(self) {
        let Wkv4Inputs { w, u, k, v } = self.inputs;
        let width = w.len();
        let mut steps = Vec::with_capacity(self.rows.len());
        for (n, c) in self.channels.enumerate() {
            let (w, u) = (w[c], u[c]);
            steps.clear();
            let (aa_0, bb_0, pp_0) = self
                .state
                .map_or((0.0, 0.0, EMPTY), |state| (state[c], state[width + c], state[2 * width + c]));
            let (mut aa, mut bb, mut pp) = (aa_0, bb_0, pp_0);
            let (mut ga, mut gb) = (0.0, 0.0);
            for i in self.rows.clone().map(|row| row * width + c) {
                let (k, v, y) = (k[i], v[i], self.y[i]);
                let p = pp.max(u + k);
                let (e1, e2) = (scalar_exp(pp - p), scalar_exp(u + k - p));
                let q = self.dy[i] / (e1 * bb + e2);
                steps.push(Step { q, p, e2 });
                self.dw[n] += (ga - gb * y) * e1 * q;
                self.du[n] += (v - y) * e2 * q;

                let p = (pp + w).max(k);
                let (e1, e2) = (scalar_exp(pp + w - p), scalar_exp(k - p));
                ga = e1 * (aa + ga);
                gb = e1 * (bb + gb);
                aa = e1 * aa + e2 * v;
                bb = e1 * bb + e2;
                pp = p;
            }

            let (mut a, mut b, mut p) = (0.0, 0.0, EMPTY);
            for i in self.rows.clone().rev().map(|row| row * width + c) {
                let (k, v, y) = (k[i], v[i], self.y[i]);
                let Some(step) = steps.pop() else { break };
                let now = step.q * step.e2;
                // exp(k + p) ≤ 1: every later step's exponent is at least what k has decayed to, so k + p ≤ 0
                // but for rounding.
                let later = scalar_exp((k + p).min(0.0));
                // SAFETY: this channel of this segment is ours alone.
                let (dk, dv) = unsafe { (self.dk.item(i), self.dv.item(i)) };
                self.dk_store.put(dk, now * (v - y) + later * (a * v + b));
                self.dv_store.put(dv, now + later * a);

                let next = (w + p).max(-step.p);
                let (e1, e2) = (scalar_exp(w + p - next), step.q * scalar_exp(-step.p - next));
                a = e1 * a + e2;
                b = e1 * b - e2 * y;
                p = next;
            }
            if let Some(dstate) = &self.dstate {
                // exp(pp + p) ≤ 1, as above.
                let entered = scalar_exp((pp_0 + p).min(0.0));
                let (daa, dbb) = (entered * a, entered * b);
                for (i, d) in [daa, dbb, aa_0 * daa + bb_0 * dbb].into_iter().enumerate() {
                    // SAFETY: this channel of this segment is ours alone.
                    *unsafe { dstate.item(i * width + c) } += d;
                }
            }
        }
    }

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        // Of each step q, p and e2, in the order of the steps: a few KB that stay in the first-level cache.
        let mut steps = vec![0.0; self.rows.len() * 3 * S::LANES];
        let Range { mut start, end } = self.channels.clone();
        while start + S::LANES <= end {
            self.lanes(s, start, S::LANES, &mut steps);
            start += S::LANES;
        }
        if start < end {
            self.lanes(s, start, end - start, &mut steps);
        }
    }
}

impl Backward<'_> {
    /// The `n` channels from `c` on.
    #[inline(always)]
    fn lanes<S: Simd>(&mut self, s: S, c: usize, n: usize, steps: &mut [f32]) {
        let Wkv4Inputs { w, u, k, v } = self.inputs;
        let width = w.len();
        let (w, u) = (s.load(&w[c..c + n]), s.load(&u[c..c + n]));

        let (mut dw, mut du) = (s.zero(), s.zero());
        let mut before = [s.zero(), s.zero(), s.splat(EMPTY)];
        if let Some(state) = self.state {
            for (i, x) in before.iter_mut().enumerate() {
                *x = s.load(&state[i * width + c..i * width + c + n]);
            }
        }
        let [mut aa, mut bb, mut pp] = before;
        let (mut ga, mut gb) = (s.zero(), s.zero());
        for (row, step) in self.rows.clone().zip(steps.chunks_exact_mut(3 * S::LANES)) {
            let i = row * width + c;
            let (k, v) = (s.load(&k[i..i + n]), s.load(&v[i..i + n]));
            let (y, dy) = (s.load(&self.y[i..i + n]), s.load(&self.dy[i..i + n]));
            let (e1, e2, p) = weigh(s, pp, s.add(u, k));
            let q = s.div(dy, s.mul_add(e1, bb, e2));
            s.store(step, q);
            s.store(&mut step[S::LANES..], p);
            s.store(&mut step[2 * S::LANES..], e2);
            dw = s.mul_add(s.neg_mul_add(gb, y, ga), s.mul(e1, q), dw);
            du = s.mul_add(s.sub(v, y), s.mul(e2, q), du);

            let (e1, e2, p) = weigh(s, s.add(pp, w), k);
            ga = s.mul(e1, s.add(aa, ga));
            gb = s.mul(e1, s.add(bb, gb));
            aa = s.mul_add(e1, aa, s.mul(e2, v));
            bb = s.mul_add(e1, bb, e2);
            pp = p;
        }
        let at = c - self.channels.start;
        s.put(Store::Add, &mut self.dw[at..at + n], dw);
        s.put(Store::Add, &mut self.du[at..at + n], du);

        let (mut a, mut b, mut p) = (s.zero(), s.zero(), s.splat(EMPTY));
        for (row, step) in self.rows.clone().zip(steps.chunks_exact(3 * S::LANES)).rev() {
            let i = row * width + c;
            let (k, v, y) = (s.load(&k[i..i + n]), s.load(&v[i..i + n]), s.load(&self.y[i..i + n]));
            let (q, at, e2) = (s.load(step), s.load(&step[S::LANES..]), s.load(&step[2 * S::LANES..]));
            let now = s.mul(q, e2);
            // The order of the arguments lets a NaN through.
            let later = exp_nonpositive(s, s.min(s.zero(), s.add(k, p)));
            let dk = s.mul_add(now, s.sub(v, y), s.mul(later, s.mul_add(a, v, b)));
            let dv = s.mul_add(later, a, now);
            // SAFETY: these channels of this segment are ours alone.
            let (dk_out, dv_out) = unsafe { (self.dk.part(i..i + n), self.dv.part(i..i + n)) };
            s.put(self.dk_store, dk_out, dk);
            s.put(self.dv_store, dv_out, dv);

            let (e1, e2, next) = weigh(s, s.add(w, p), s.sub(s.zero(), at));
            let e2 = s.mul(q, e2);
            a = s.mul_add(e1, a, e2);
            b = s.neg_mul_add(e2, y, s.mul(e1, b));
            p = next;
        }
        if let Some(dstate) = &self.dstate {
            let [aa, bb, pp] = before;
            let entered = exp_nonpositive(s, s.min(s.zero(), s.add(pp, p)));
            let (daa, dbb) = (s.mul(entered, a), s.mul(entered, b));
            let dpp = s.mul_add(aa, daa, s.mul(bb, dbb));
            for (i, d) in [daa, dbb, dpp].into_iter().enumerate() {
                // SAFETY: these channels of this segment are ours alone.
                s.put(Store::Add, unsafe { dstate.part(i * width + c..i * width + c + n) }, d);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // one segment of many rows
mod tests {
    use super::super::tests::{exact, exact_from, inputs, segments, shapes};
    use super::super::wkv4;
    use super::*;
    use crate::testing::{assert_gradient, dot, every_tier, f64s, set_and_add, values};

    /// dw, du, dk, dv, and the gradient of each state; from the states, or from nothing if there are none.
    fn run(
        cpu: &Cpu,
        segments: &[Range<usize>],
        states: &[Vec<f32>],
        [w, u, k, v]: &[Vec<f32>; 4],
        dy: &[f32],
    ) -> Vec<Vec<f32>> {
        let len = k.len();
        let inputs = Wkv4Inputs { w, u, k, v };
        let mut y = vec![f32::NAN; len];
        let mut moved = states.to_vec();
        let mut moved: Vec<_> = moved.iter_mut().map(Vec::as_mut_slice).collect();
        wkv4(cpu, segments, &mut moved, AT, inputs, &mut y);
        let states: Vec<_> = states.iter().map(Vec::as_slice).collect();
        let backward = |dk: &mut [f32], dk_store, dv: &mut [f32], dv_store| {
            let (mut dw, mut du) = (vec![0.5; w.len()], vec![0.5; w.len()]);
            let mut dstates = vec![vec![0.5; AT + 3 * w.len() + 1]; segments.len()];
            let mut slices: Vec<_> = dstates.iter_mut().map(Vec::as_mut_slice).collect();
            let (dw_, du_, dstates_) = (&mut dw, &mut du, &mut slices);
            let into = Wkv4Gradients { dw: dw_, du: du_, dk, dk_store, dv, dv_store, dstates: dstates_ };
            wkv4_backward(cpu, segments, &states, AT, inputs, &y, dy, into);
            [vec![dw, du], dstates].concat()
        };
        let dk = set_and_add(len, |dk, store| {
            backward(dk, store, &mut vec![0.0; len], Store::Set);
        });
        let dv = set_and_add(len, |dv, store| {
            backward(&mut vec![0.0; len], Store::Add, dv, store);
        });
        let mut sums = backward(&mut vec![0.0; len], Store::Set, &mut vec![0.0; len], Store::Set);
        // Gradients of parameters and of states are added.
        sums.iter_mut().flatten().for_each(|sum| *sum -= 0.5);
        for dstate in &mut sums[2..] {
            let rest = dstate.split_off(AT + 3 * w.len());
            assert_eq!(
                (dstate.drain(..AT).collect::<Vec<_>>(), rest),
                (vec![0.0; AT], vec![0.0]),
                "not its place"
            );
        }
        let dstates = sums.split_off(2);
        sums.extend([dk, dv]);
        sums.extend(dstates);
        sums
    }

    /// Where in the tests' states aa begins.
    const AT: usize = 2;

    /// A state for each segment: aa in (−2, 2), bb in (0.1, 1.9), pp in (−scale, scale), one of them that of
    /// an empty text.
    fn states(count: usize, width: usize, scale: f32) -> Vec<Vec<f32>> {
        let state = |i: usize| {
            let bb = values(11 + i, width, 0.9).iter().map(|x| x + 1.0).collect();
            let mut state =
                [vec![7.0; AT], values(10 + i, width, 2.0), bb, values(12 + i, width, scale)].concat();
            (state[AT], state[AT + width], state[AT + 2 * width]) = (0.0, 0.0, EMPTY);
            state.push(7.0);
            state
        };
        (0..count).map(state).collect()
    }

    #[test]
    fn every_tier_and_thread_count_agrees() {
        for (rows, width) in shapes() {
            let (inputs, dy) = (inputs(rows, width, 6.0), values(5, rows * width, 1.0));
            for states in [vec![], states(3, width, 6.0)] {
                // (v − y) cancels where one term outweighs the others, hence more than the forward's.
                every_tier("wkv4_backward", 5e-5, |cpu| run(cpu, &segments(rows), &states, &inputs, &dy));
            }
        }
    }

    #[test]
    fn no_states_are_the_initial_state_to_the_last_bit() {
        let (rows, width) = (40, 37);
        let (inputs, dy) = (inputs(rows, width, 6.0), values(5, rows * width, 1.0));
        let initial = [vec![7.0; AT], vec![0.0; 2 * width], vec![EMPTY; width], vec![7.0]].concat();
        every_tier("wkv4_backward", 5e-5, |cpu| {
            let without = run(cpu, &segments(rows), &[], &inputs, &dy);
            let with = run(cpu, &segments(rows), &vec![initial.clone(); 3], &inputs, &dy);
            assert_eq!(without, with, "{}", cpu.isa());
            // Nothing moves an empty sum: its weight is exp(−1e30).
            assert!(with[4..].iter().flatten().all(|&d| d == 0.0), "{}", cpu.isa());
            with
        });
    }

    #[test]
    fn gradients_of_states_that_nobody_wants_change_nothing() {
        let (rows, width) = (20, 19);
        let ([w, u, k, v], dy) = (&inputs(rows, width, 6.0), values(5, rows * width, 1.0));
        let states = states(3, width, 6.0);
        let inputs = Wkv4Inputs { w, u, k, v };
        for isa in crate::Isa::available() {
            let cpu = Cpu::new(isa, 2);
            let want = run(&cpu, &segments(rows), &states, &[w, u, k, v].map(Vec::clone), &dy);
            let (mut y, mut moved) = (vec![f32::NAN; k.len()], states.clone());
            let mut moved: Vec<_> = moved.iter_mut().map(Vec::as_mut_slice).collect();
            wkv4(&cpu, &segments(rows), &mut moved, AT, inputs, &mut y);
            let (mut dw, mut du) = (vec![0.5; width], vec![0.5; width]);
            let (mut dk, mut dv) = (vec![f32::NAN; k.len()], vec![f32::NAN; k.len()]);
            let into = Wkv4Gradients {
                dw: &mut dw,
                du: &mut du,
                dk: &mut dk,
                dk_store: Store::Set,
                dv: &mut dv,
                dv_store: Store::Set,
                dstates: &mut [],
            };
            let states: Vec<_> = states.iter().map(Vec::as_slice).collect();
            wkv4_backward(&cpu, &segments(rows), &states, AT, inputs, &y, &dy, into);
            for sum in dw.iter_mut().chain(&mut du) {
                *sum -= 0.5;
            }
            assert_eq!([dw, du, dk, dv], want[..4], "{isa}");
        }
    }

    /// Against central differences of the plain sums in f64, from nothing and from a state.
    fn check(rows: usize, width: usize, inputs: &[Vec<f32>; 4], scale: f32) {
        let dy = values(5, rows * width, 1.0);
        let states = states(1, width, scale);
        let inputs64 = inputs.each_ref().map(|x| f64s(x));
        for from in [&states[..0], &states[..]] {
            let got = every_tier("wkv4_backward", 5e-5, |cpu| run(cpu, &[0..rows], from, inputs, &dy));
            let state = from.first().map(|state| f64s(&state[AT..AT + 3 * width]));
            let y = |[w, u, k, v]: [&[f64]; 4]| match &state {
                Some(state) => exact_from(state, w, u, k, v),
                None => exact(w, u, k, v),
            };
            for (n, name) in ["dw", "du", "dk", "dv"].into_iter().enumerate() {
                assert_gradient(name, &inputs[n], &got[n], |x| {
                    dot(&y(std::array::from_fn(|i| if i == n { x } else { &inputs64[i][..] })), &dy)
                });
            }
            if let Some(state) = from.first() {
                let [w, u, k, v] = &inputs64;
                assert_gradient("dstate", &state[AT..AT + 3 * width], &got[4], |state| {
                    dot(&exact_from(state, w, u, k, v), &dy)
                });
            }
        }
    }

    #[test]
    fn the_backward_is_the_derivative() {
        for (rows, width) in [(1, 1), (1, 9), (2, 3), (12, 5), (5, 18)] {
            check(rows, width, &inputs(rows, width, 3.0), 3.0);
        }
    }

    #[test]
    fn keys_of_eighty_either_way_are_no_trouble() {
        let (rows, width) = (8, 19);
        let mut inputs = inputs(rows, width, 1.0);
        inputs[2].iter_mut().for_each(|k| *k = 80.0_f32.copysign(*k));
        check(rows, width, &inputs, 80.0);
    }

    /// A state that outweighs whatever comes after it, and one that does not count: neither overflows.
    #[test]
    fn states_of_any_weight_give_finite_gradients() {
        let (rows, width) = (6, 17);
        let (inputs, dy) = (inputs(rows, width, 6.0), values(5, rows * width, 1.0));
        for pp in [-1e30, -1e5, 500.0, 1e5] {
            let mut state = states(1, width, 1.0);
            state[0][AT + 2 * width..AT + 3 * width].fill(pp);
            state[0][AT + width] = 1.0; // a weight of zero would be divided by
            every_tier("wkv4_backward", 5e-5, |cpu| {
                let got = run(cpu, &[0..rows], &state, &inputs, &dy);
                assert!(got.iter().flatten().all(|x| x.is_finite()), "{}, pp = {pp}", cpu.isa());
                let moves = got[4].iter().any(|&d| d != 0.0);
                assert_eq!(moves, pp > 0.0, "{}, pp = {pp}", cpu.isa());
                // The others are differences that vanish where the state is all there is.
                vec![got[4].clone()]
            });
        }
    }
}
