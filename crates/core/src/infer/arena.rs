//! The memory of a pass: one array that every pass uses again.

/// Handle of a tensor of the pass under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    at: usize,
    rows: usize,
    width: usize,
}

impl Tensor {
    /// Number of rows: tokens of the pass, or outputs.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Values in a row.
    pub fn width(self) -> usize {
        self.width
    }

    fn len(self) -> usize {
        self.rows * self.width
    }

    fn end(self) -> usize {
        self.at + self.len()
    }
}

/// A stack of tensors. It grows to what the largest pass needs and is then never allocated again.
///
/// A tensor is made after those that it is computed from, so it lies behind them: cutting the array in front
/// of it gives the inputs to read and the output to write, with no copy and nothing unsafe.
#[derive(Debug, Default)]
pub(super) struct Arena {
    /// From `first` on; what lies before that fills the cache line that memory happened to begin in.
    memory: Vec<f32>,
    first: usize,
    used: usize,
}

/// Tensors begin at multiples of a cache line's sixteen floats, on a cache line: a vector as long as one then
/// lies within one, and products need no more than one load for it.
const ALIGN: usize = 16;

impl Arena {
    /// Forgets all tensors.
    pub(super) fn clear(&mut self) {
        self.used = 0;
    }

    /// `N` new tensors, all that was there before them to read, and their own values (left over from earlier
    /// tensors) to write.
    pub(super) fn push<const N: usize>(
        &mut self,
        rows: usize,
        width: usize,
    ) -> ([Tensor; N], Before<'_>, [&mut [f32]; N]) {
        self.push_each([(rows, width); N])
    }

    /// The same for tensors of different shapes `(rows, width)`.
    pub(super) fn push_each<const N: usize>(
        &mut self,
        shapes: [(usize, usize); N],
    ) -> ([Tensor; N], Before<'_>, [&mut [f32]; N]) {
        let start = self.used;
        let tensors = shapes.map(|(rows, width)| {
            let tensor = Tensor { at: self.used, rows, width };
            self.used = tensor.end().next_multiple_of(ALIGN);
            tensor
        });
        self.reserve(start);
        let (before, mut new) = self.memory[self.first..].split_at_mut(start);
        let values = tensors.map(|tensor| {
            let stride = tensor.len().next_multiple_of(ALIGN);
            let (values, rest) = std::mem::take(&mut new).split_at_mut(stride);
            new = rest;
            &mut values[..tensor.len()]
        });
        (tensors, Before(before), values)
    }

    /// Makes room for all that is used; the first `kept` values stay.
    fn reserve(&mut self, kept: usize) {
        if self.used <= self.memory.len() - self.first {
            return;
        }
        let mut memory = vec![0.0_f32; self.used + ALIGN];
        let first = memory.as_ptr().align_offset(ALIGN * size_of::<f32>()).min(ALIGN);
        memory[first..first + kept].copy_from_slice(&self.memory[self.first..self.first + kept]);
        (self.memory, self.first) = (memory, first);
    }

    /// The values of `tensor`, row by row.
    pub(super) fn get(&self, tensor: Tensor) -> &[f32] {
        &self.memory[self.first..][tensor.at..tensor.end()]
    }

    /// Frees all tensors but `live`, which move to the front.
    pub(super) fn keep<const N: usize>(&mut self, live: [Tensor; N]) -> [Tensor; N] {
        let mut order: [usize; N] = std::array::from_fn(|i| i);
        order.sort_unstable_by_key(|&i| live[i].at);
        let mut moved = live;
        self.clear();
        for (position, &i) in order.iter().enumerate() {
            // The same tensor may be kept twice.
            if let Some(&twin) = order[..position].iter().find(|&&twin| live[twin] == live[i]) {
                moved[i] = moved[twin];
                continue;
            }
            // In order of place, every tensor moves towards the front and none over one that is still to
            // move.
            self.memory[self.first..].copy_within(live[i].at..live[i].end(), self.used);
            moved[i].at = self.used;
            self.used = moved[i].end().next_multiple_of(ALIGN);
        }
        moved
    }
}

/// The part of an arena that lies before the tensor being computed.
#[derive(Clone, Copy)]
pub(super) struct Before<'a>(&'a [f32]);

impl<'a> Before<'a> {
    pub(super) fn get(self, tensor: Tensor) -> &'a [f32] {
        &self.0[tensor.at..tensor.end()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(arena: &mut Arena, rows: usize, width: usize, value: f32) -> Tensor {
        let ([tensor], _, [values]) = arena.push(rows, width);
        values.fill(value);
        tensor
    }

    #[test]
    fn new_tensors_do_not_overlap_and_see_the_old_ones() {
        let mut arena = Arena::default();
        let old = filled(&mut arena, 2, 3, 1.0);
        let ([a, b], before, [x, y]) = arena.push(1, 17);
        assert_eq!(before.get(old), [1.0; 6]);
        assert!([&x[0], &y[0]].iter().all(|&value| std::ptr::from_ref(value).addr().is_multiple_of(64)));
        x.fill(2.0);
        y.fill(3.0);
        assert_eq!(
            (arena.get(old), arena.get(a), arena.get(b)),
            (&[1.0; 6][..], &[2.0; 17][..], &[3.0; 17][..])
        );
        // No rows are no harm: a pass may want no outputs.
        let ([none], _, [values]) = arena.push(0, 5);
        assert_eq!((none.rows(), values.len()), (0, 0));
    }

    #[test]
    fn kept_tensors_keep_their_values_and_others_give_their_room() {
        let mut arena = Arena::default();
        let [_a, b, _c, d] = [1.0, 2.0, 3.0, 4.0].map(|value| filled(&mut arena, 3, 7, value));
        let [kept_d, kept_b, again] = arena.keep([d, b, d]);
        assert_eq!(arena.get(kept_b), [2.0; 21]);
        assert_eq!(arena.get(kept_d), [4.0; 21]);
        assert_eq!((kept_b.at, kept_d.at), (0, 32));
        assert_eq!(again, kept_d);
        let grown = arena.memory.len();
        let e = filled(&mut arena, 3, 7, 5.0);
        assert_eq!((e.at, arena.get(kept_d)), (64, &[4.0; 21][..]));
        assert_eq!(arena.memory.len(), grown);
    }
}
