//! Gradients on their way to be summed over ranks.

use std::collections::VecDeque;
use std::num::FpCategory;
use std::ops::Range;

use rwkv_core::params::Matrix;

use super::courier::{Awaited, Courier};
use super::{SumPrecision, gather};
use crate::error::{Error, Result};

/// Floats that are summed at a time: 2 MB. The last ones are waited for when backward is done.
const BUCKET: usize = 1 << 19;

/// Gradients on their way to be summed, in buckets of one size: small ones go together, and large ones in parts. All
/// ranks begin with the same parameters in the same order.
#[derive(Debug)]
pub(crate) struct Sums {
    precision: SumPrecision,
    bucket: Bucket,
    under_way: VecDeque<UnderWay>,
    /// Buffers of buckets that are summed, to fill again: fresh memory would cost page faults.
    spare: Vec<Vec<f32>>,
    /// Whether a parameter's gradient has been sent, by its index.
    is_sent: Vec<bool>,
    /// The first error.
    result: Result<()>,
}

/// A matrix that is read by rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub(crate) parameter: usize,
    pub(crate) width: usize,
}

type UnderWay = (Vec<Part>, Awaited<Result<Vec<f32>>>);

#[derive(Debug, Default)]
struct Bucket {
    values: Vec<f32>,
    parts: Vec<Part>,
}

/// Where a part of a bucket came from.
#[derive(Clone, Copy, Debug)]
struct Part {
    parameter: usize,
    first: usize,
    len: usize,
}

impl Sums {
    /// Of the gradients of `count` parameters.
    pub(crate) fn new(precision: SumPrecision, count: usize) -> Self {
        Self {
            precision,
            bucket: Bucket::default(),
            under_way: VecDeque::new(),
            spare: Vec::new(),
            is_sent: vec![false; count],
            result: Ok(()),
        }
    }

    /// Begins to sum the gradients of these matrices, which nothing is added to any more, and puts the sums that are
    /// there in their places.
    pub(crate) fn add(&mut self, ranks: &Courier, gradients: &mut [Vec<f32>], whole: &[Matrix]) {
        if ranks.count() == 1 {
            return;
        }
        for matrix in whole {
            self.send(ranks, gradients, matrix.index());
        }
        while let Some(summed) = self.under_way.front_mut().and_then(|(_, sums)| sums.poll()) {
            let parts = self.under_way.pop_front().map_or(Vec::new(), |(parts, _)| parts);
            self.put(gradients, &parts, summed);
        }
    }

    /// Sums all that was not sent yet of the `trained` parameters, and waits for all sums. Of the `embedding` only rows go
    /// that are not 0 on all ranks: those of tokens that are in the batch.
    ///
    /// # Errors
    /// Those of [`Ranks::exchange`]: the gradients mean nothing then.
    pub(crate) fn finish(
        &mut self,
        ranks: &Courier,
        gradients: &mut [Vec<f32>],
        trained: impl Iterator<Item = usize>,
        embedding: Option<Rows>,
    ) -> Result<()> {
        if ranks.count() == 1 {
            return Ok(());
        }
        for parameter in trained {
            if !self.is_sent[parameter] && embedding.is_none_or(|rows| rows.parameter != parameter) {
                self.send(ranks, gradients, parameter);
            }
        }
        self.flush(ranks);
        if let Some(Rows { parameter, width }) = embedding {
            match used_rows(ranks, &gradients[parameter], width) {
                Ok(used) => used.into_iter().for_each(|row| {
                    self.send_part(ranks, gradients, parameter, row * width..(row + 1) * width);
                }),
                Err(error) => self.fail(error),
            }
            self.flush(ranks);
        }
        while let Some((parts, summed)) = self.under_way.pop_front() {
            self.put(gradients, &parts, summed.wait());
        }
        self.is_sent.fill(false);
        std::mem::replace(&mut self.result, Ok(()))
    }

    fn send(&mut self, ranks: &Courier, gradients: &[Vec<f32>], parameter: usize) {
        self.is_sent[parameter] = true;
        self.send_part(ranks, gradients, parameter, 0..gradients[parameter].len());
    }

    fn send_part(&mut self, ranks: &Courier, gradients: &[Vec<f32>], parameter: usize, part: Range<usize>) {
        let gradient = &gradients[parameter];
        let mut first = part.start;
        while first < part.end {
            let len = (part.end - first).min(BUCKET - self.bucket.values.len());
            self.bucket.values.extend_from_slice(&gradient[first..first + len]);
            self.bucket.parts.push(Part { parameter, first, len });
            first += len;
            if self.bucket.values.len() == BUCKET {
                self.flush(ranks);
            }
        }
    }

    fn flush(&mut self, ranks: &Courier) {
        if self.bucket.values.is_empty() {
            return;
        }
        let empty = Bucket { values: self.spare.pop().unwrap_or_default(), parts: Vec::new() };
        let Bucket { values, parts } = std::mem::replace(&mut self.bucket, empty);
        self.under_way.push_back((parts, ranks.begin_sum(values, self.precision)));
    }

    /// Keeps the first error.
    fn fail(&mut self, error: Error) {
        if self.result.is_ok() {
            self.result = Err(error);
        }
    }

    fn put(&mut self, gradients: &mut [Vec<f32>], parts: &[Part], summed: Result<Vec<f32>>) {
        let mut summed = match summed {
            Ok(summed) => summed,
            Err(error) => return self.fail(error),
        };
        let mut rest = &summed[..];
        for &Part { parameter, first, len } in parts {
            let (own, after) = rest.split_at(len);
            gradients[parameter][first..first + len].copy_from_slice(own);
            rest = after;
        }
        summed.clear();
        self.spare.push(summed);
    }
}

/// Rows of `width` elements that are not all 0 on some rank, in order.
fn used_rows(ranks: &Courier, gradient: &[f32], width: usize) -> Result<Vec<usize>> {
    let n_rows = gradient.len() / width;
    let mut own = vec![0_u8; n_rows.div_ceil(8)];
    for (row, values) in gradient.chunks_exact(width).enumerate() {
        // What is not a number is none of 0.
        if values.iter().any(|x| !matches!(x.classify(), FpCategory::Zero)) {
            own[row / 8] |= 1 << (row % 8);
        }
    }
    let all = ranks.call(move |ranks| gather(ranks, &own))?;
    let is_used =
        |row: usize| all.iter().any(|bits| bits.get(row / 8).is_some_and(|bits| bits >> (row % 8) & 1 == 1));
    Ok((0..n_rows).filter(|&row| is_used(row)).collect())
}

#[cfg(test)]
mod tests {
    use rwkv_core::ModelConfig;
    use rwkv_core::model::Network;
    use rwkv_core::store::Parameters;

    use super::*;
    use crate::ranks::Ranks;

    /// Rank 0 of two, the other of which has the same values.
    #[derive(Debug, Default)]
    struct Twin {
        /// The other one's part of the sum.
        others: Vec<u8>,
        most: usize,
    }

    impl Ranks for Twin {
        fn rank(&self) -> usize {
            0
        }

        fn count(&self) -> usize {
            2
        }

        fn exchange(&mut self, sent: &[u8], received: &mut [u8]) -> Result<()> {
            let (own, others) = sent.split_at(sent.len() / 2);
            received.copy_from_slice(&own.repeat(2));
            self.others = others.to_vec();
            self.most = self.most.max(sent.len());
            Ok(())
        }

        fn collect(&mut self, own: &[u8], all: &mut [u8]) -> Result<()> {
            all.copy_from_slice(&own.repeat(2));
            // After an exchange it is the sum of a part.
            let others = std::mem::take(&mut self.others);
            let (others, _) = others.as_chunks::<4>();
            for (sum, x) in all[own.len()..].as_chunks_mut::<4>().0.iter_mut().zip(others) {
                *sum = (2.0 * f32::from_le_bytes(*x)).to_le_bytes();
            }
            Ok(())
        }

        fn take_from_first(&mut self, _: &mut [u8]) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn gradients_are_summed_in_buckets_wherever_they_are_cut() {
        let (network, layout, _) = Network::new(&ModelConfig::v4(7, 8, 1));
        drop(network);
        let index = layout.find("blocks.0.ffn.key.weight").expect("declared");
        let matrix = Parameters::of_shapes(layout.clone()).matrix_at(index).expect("a matrix");
        let count = layout.specs().len();
        let ranks = Courier::start(Box::new(Twin::default())).expect("a thread");
        // One that is larger than two buckets, and small ones whose bytes share what is left.
        let values =
            |index: usize, len: usize| (0..len).map(|at| (index + at % 1000) as f32).collect::<Vec<_>>();
        let lengths: Vec<_> =
            (0..count).map(|at| if at == index { 2 * BUCKET + 77 } else { 3 * at + 1 }).collect();
        let mut gradients: Vec<_> = lengths.iter().enumerate().map(|(at, &len)| values(at, len)).collect();
        let mut sums = Sums::new(SumPrecision::F32, count);
        sums.add(&ranks, &mut gradients, &[matrix]);
        // Those that are not trained stay. Of the third some rows are 0.
        let embedding = Rows { parameter: 2, width: 3 };
        gradients[2] = [0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, f32::MIN_POSITIVE].repeat(5);
        let third = gradients[2].clone();
        let trained = (0..count).filter(|at| at % 3 != 1);
        sums.finish(&ranks, &mut gradients, trained, Some(embedding)).expect("sums");
        assert!(gradients[2].iter().zip(&third).all(|(sum, x)| sum.to_bits() == (2.0 * x).to_bits()));
        gradients[2] = values(2, lengths[2]).into_iter().map(|x| 2.0 * x).collect();
        for (at, (gradient, &len)) in gradients.iter().zip(&lengths).enumerate() {
            let factor = if at % 3 == 1 && at != index { 1.0 } else { 2.0 };
            let expected: Vec<_> = values(at, len).into_iter().map(|x| factor * x).collect();
            assert!(*gradient == expected, "{at}");
        }
    }
}
