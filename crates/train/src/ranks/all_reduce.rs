//! One sum over all ranks, in two rounds of messages.

use half::bf16;
use half::slice::HalfFloatSliceExt;

use super::SumPrecision;

/// An all-reduce: values, as many on every rank, are replaced by their sums over all ranks, the same bits on every rank.
///
/// In the first round (reduce-scatter) each rank gets its part of the values from all others, and adds them up in the order
/// of the ranks, whatever the order in which they arrive. In the second (all-gather) all ranks get all parts. Every value
/// goes over a rank's link twice, as in a ring. In bf16 what is sent is rounded, first the values and then the sums; the
/// sums themselves are taken in f32.
#[derive(Debug)]
pub(crate) struct AllReduce {
    precision: SumPrecision,
    /// Values of this rank, then the sums; with zeros at the end, for all parts to have the same length.
    values: Vec<f32>,
    len: usize,
    /// Length of a part.
    part: usize,
    room: Room,
}

/// Buffers of an all-reduce, for the next one to use again.
#[derive(Debug, Default)]
pub(crate) struct Room {
    received: Vec<f32>,
    /// In bf16 what is sent, and what is received.
    halves: [Vec<bf16>; 2],
}

impl AllReduce {
    /// Of `values`, on `count` ranks.
    pub(crate) fn new(mut values: Vec<f32>, precision: SumPrecision, count: usize, mut room: Room) -> Self {
        let (len, part) = (values.len(), values.len().div_ceil(count));
        values.resize(part * count, 0.0);
        match precision {
            SumPrecision::F32 => room.received.resize(values.len(), 0.0),
            SumPrecision::Bf16 => {
                room.halves.iter_mut().for_each(|halves| halves.resize(values.len(), bf16::ZERO));
                room.halves[0].convert_from_f32_slice(&values);
            }
        }
        Self { precision, values, len, part, room }
    }

    /// What the first round sends, a part to each rank, and where it puts the parts that all ranks send to this one.
    pub(crate) fn first_round(&mut self) -> (&[u8], &mut [u8]) {
        let Self { values, room: Room { received, halves: [sent, halves] }, .. } = self;
        match self.precision {
            SumPrecision::F32 => (bytemuck::cast_slice(values), bytemuck::cast_slice_mut(received)),
            SumPrecision::Bf16 => (bytemuck::cast_slice(sent), bytemuck::cast_slice_mut(halves)),
        }
    }

    /// Adds up this rank's part, between the rounds.
    pub(crate) fn add(&mut self) {
        let Self { part, values, room: Room { received, halves: [sent, halves] }, .. } = self;
        match self.precision {
            SumPrecision::F32 => {
                let (own, others) = received.split_at_mut(*part);
                for of_rank in others.chunks_exact(*part) {
                    own.iter_mut().zip(of_rank).for_each(|(sum, x)| *sum += x);
                }
            }
            SumPrecision::Bf16 => {
                // Nobody reads the values any more.
                let sums = &mut values[..*part];
                sums.fill(0.0);
                for of_rank in halves.chunks_exact(*part) {
                    sums.iter_mut().zip(of_rank).for_each(|(sum, x)| *sum += x.to_f32());
                }
                sent[..*part].convert_from_f32_slice(sums);
            }
        }
    }

    /// What the second round sends to all, this rank's part of the sums, and where it puts all parts.
    pub(crate) fn second_round(&mut self) -> (&[u8], &mut [u8]) {
        let Self { part, values, room: Room { received, halves: [sent, halves] }, .. } = self;
        match self.precision {
            SumPrecision::F32 => (bytemuck::cast_slice(&received[..*part]), bytemuck::cast_slice_mut(values)),
            SumPrecision::Bf16 => (bytemuck::cast_slice(&sent[..*part]), bytemuck::cast_slice_mut(halves)),
        }
    }

    /// The sums, and the memory that it took.
    pub(crate) fn finish(self) -> (Vec<f32>, Room) {
        let Self { precision, mut values, len, room, .. } = self;
        if precision == SumPrecision::Bf16 {
            room.halves[1].convert_to_f32_slice(&mut values);
        }
        values.truncate(len);
        (values, room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `count` ranks make of their values, all of them.
    fn sums(all: &[Vec<f32>], precision: SumPrecision) -> Vec<Vec<f32>> {
        let count = all.len();
        let begin = |values: &Vec<f32>| AllReduce::new(values.clone(), precision, count, Room::default());
        let mut ranks: Vec<_> = all.iter().map(begin).collect();
        let sent: Vec<_> = ranks.iter_mut().map(|rank| rank.first_round().0.to_vec()).collect();
        let part = sent[0].len() / count;
        for (number, rank) in ranks.iter_mut().enumerate() {
            let parts: Vec<_> = sent.iter().flat_map(|sent| sent[number * part..][..part].to_vec()).collect();
            rank.first_round().1.copy_from_slice(&parts);
            rank.add();
        }
        let all: Vec<_> = ranks.iter_mut().flat_map(|rank| rank.second_round().0.to_vec()).collect();
        let end = |mut rank: AllReduce| {
            rank.second_round().1.copy_from_slice(&all);
            rank.finish().0
        };
        ranks.into_iter().map(end).collect()
    }

    #[test]
    fn all_ranks_have_the_sum_in_the_order_of_the_ranks() {
        // Added up in another order, nothing would be left of the 1.
        let all = [vec![1e8, 1.0, 2.0, 0.5], vec![-1e8, 1.0, 3.0, 0.25], vec![1.0, 1.0, 4.0, 0.125]];
        assert_eq!(sums(&all, SumPrecision::F32), vec![vec![1.0, 3.0, 9.0, 0.875]; 3]);
    }

    #[test]
    fn what_is_sent_in_bf16_is_rounded_and_the_sum_is_not() {
        // 1/512 is lost beside 1; 1/256 + 1/256 are not, because they are added in f32.
        let all =
            [vec![1.0 + 1.0 / 512.0, 1.0, -3.0], vec![0.0, 1.0 / 256.0, 1.0], vec![0.0, 1.0 / 256.0, 1.0]];
        assert_eq!(sums(&all, SumPrecision::Bf16), vec![vec![1.0, 1.0 + 1.0 / 128.0, -1.0]; 3]);
    }
}
