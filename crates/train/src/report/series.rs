//! The curves of a run: smoothed, and reduced to what a screen can show.

use std::fmt::Write;

use super::text::significant;

/// How many points of a curve a page holds. A screen has fewer columns.
pub(super) const MAX_POINTS: usize = 2000;

/// A value after a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) step: u64,
    /// Seconds since the run began.
    pub(super) seconds: f64,
    pub(super) value: f64,
}

/// At most `max` of the points (and at least 4), in order: the first and the last, and of each stretch between
/// the lowest and the highest, so that no spike is lost.
pub(super) fn reduce(points: &[Point], max: usize) -> Vec<Point> {
    let [first, inner @ .., last] = points else { return points.to_vec() };
    let buckets = max.max(4) / 2 - 1;
    if points.len() <= max.max(4) {
        return points.to_vec();
    }
    let mut kept = vec![*first];
    for bucket in 0..buckets {
        let part = &inner[inner.len() * bucket / buckets..inner.len() * (bucket + 1) / buckets];
        let of = |index: &usize| part[*index].value;
        let lowest = (0..part.len()).min_by(|a, b| of(a).total_cmp(&of(b)));
        let highest = (0..part.len()).max_by(|a, b| of(a).total_cmp(&of(b)));
        if let (Some(a), Some(b)) = (lowest, highest) {
            kept.push(part[a.min(b)]);
            if a != b {
                kept.push(part[a.max(b)]);
            }
        }
    }
    kept.push(*last);
    kept
}

/// The trend of a noisy curve: at each point the value there of the straight line that fits the points around it
/// best, in least squares.
///
/// A running mean lags behind a curve that falls; a line through points of both sides does not, and at the two
/// ends, where there is one side alone, it still follows the slope. A loss falls fastest at first, so the reach
/// grows with the number of the step, up to a twenty-fifth of all.
pub(super) fn smooth(points: &[Point]) -> Vec<Point> {
    let n = points.len();
    let max_reach = (n / 25).max(3);
    // Sums of y and of x y over all points before the i-th.
    let mut sums = Vec::with_capacity(n + 1);
    let (mut y, mut xy) = (0.0, 0.0);
    sums.push((y, xy));
    for (x, point) in points.iter().enumerate() {
        y += point.value;
        xy += x as f64 * point.value;
        sums.push((y, xy));
    }
    let line_at = |at: usize| {
        let reach = (at / 3).clamp(2, max_reach);
        let (from, to) = (at.saturating_sub(reach), (at + reach + 1).min(n));
        let count = (to - from) as f64;
        let middle = (from + to - 1) as f64 / 2.0;
        let y = sums[to].0 - sums[from].0;
        let xy = sums[to].1 - sums[from].1 - middle * y;
        // Σ (x − middle)² over consecutive whole numbers.
        let xx = count * (count * count - 1.0) / 12.0;
        let slope = if xx > 0.0 { xy / xx } else { 0.0 };
        y / count + slope * (at as f64 - middle)
    };
    points.iter().enumerate().map(|(at, point)| Point { value: line_at(at), ..*point }).collect()
}

/// Tokens a second over up to 100 stretches of a run, from the seconds at each step.
pub(super) fn speed(steps: &[Point], tokens_per_step: f64) -> Vec<Point> {
    let stretch = steps.len().div_ceil(100).max(1);
    let ends = steps.chunks(stretch).filter_map(|part| part.last());
    let mut before = (0, 0.0);
    let mut out = Vec::new();
    for end in ends {
        let (steps, seconds) = (end.step.saturating_sub(before.0) as f64, end.seconds - before.1);
        // A log that begins in the middle says nothing of what was before.
        let begins_late = before.0 == 0 && end.step > stretch as u64;
        if seconds > 0.0 && steps > 0.0 && !begins_late {
            out.push(Point { value: steps * tokens_per_step / seconds, ..*end });
        }
        before = (end.step, end.seconds);
    }
    out
}

/// The value that a share of the others is below.
pub(super) fn quantile(values: impl Iterator<Item = f64>, share: f64) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    let index = (values.len().checked_sub(1)? as f64 * share).round() as usize;
    Some(*values.select_nth_unstable_by(index, f64::total_cmp).1)
}

/// The range of an axis on which the curves can be read: some spikes, and the first fall, are beyond it. All of
/// the `whole` curves is within, but for a fiftieth at the top.
pub(super) fn readable(noisy: &[Point], whole: &[Point]) -> Option<[f64; 2]> {
    let noisy = || noisy.iter().map(|point| point.value);
    let whole = || whole.iter().map(|point| point.value);
    let low = quantile(noisy(), 0.005).into_iter().chain(whole()).min_by(f64::total_cmp)?;
    let high =
        [quantile(noisy(), 0.98), quantile(whole(), 0.98)].into_iter().flatten().max_by(f64::total_cmp)?;
    let margin = (0.05 * (high - low)).max(1e-3 * high.abs());
    Some([low - margin, high + margin])
}

/// Steps, seconds and values as a JSON object of three arrays.
pub(super) fn to_json(points: &[Point], scale: f64) -> String {
    let list = |of: &dyn Fn(&Point) -> String| points.iter().map(of).collect::<Vec<_>>().join(",");
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        r#"{{"step":[{}],"seconds":[{}],"y":[{}]}}"#,
        list(&|point| point.step.to_string()),
        list(&|point| significant(point.seconds, 6)),
        list(&|point| significant(point.value * scale, 5)),
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(values: impl IntoIterator<Item = f64>) -> Vec<Point> {
        let point = |(step, value)| Point { step: step as u64 + 1, seconds: step as f64, value };
        values.into_iter().enumerate().map(point).collect()
    }

    #[test]
    fn a_reduced_curve_keeps_its_ends_and_its_spikes() {
        let mut values: Vec<f64> = (0..250_000).map(|i| f64::from(i * 7919 % 1000) / 1000.0).collect();
        values[123_457] = 9.0;
        values[77_777] = -9.0;
        let (all, kept) = (points(values.clone()), points(values));
        let kept = reduce(&kept, MAX_POINTS);
        assert!(kept.len() <= MAX_POINTS && kept.len() > MAX_POINTS / 2, "{}", kept.len());
        assert!(kept.windows(2).all(|pair| pair[0].step < pair[1].step));
        assert_eq!((kept[0], kept[kept.len() - 1]), (all[0], all[249_999]));
        for index in [123_457, 77_777] {
            assert!(kept.contains(&all[index]));
        }
        for n in 0..10 {
            assert_eq!(reduce(&all[..n], MAX_POINTS), &all[..n]);
        }
    }

    #[test]
    fn smoothing_lags_on_neither_side_and_keeps_a_line() {
        let line = points((0..500).map(|i| 9.0 - 0.01 * f64::from(i)));
        for (smooth, point) in smooth(&line).iter().zip(&line) {
            assert!((smooth.value - point.value).abs() < 1e-9);
        }
        // A loss that falls as they do, with noise of both signs.
        let loss = |i: i32| 2.0 + 2.5 * (-f64::from(i) / 60.0).exp();
        let noise = |i: i32| 0.1 * (f64::from(i * 7919 % 1009) / 504.0 - 1.0);
        let noisy = points((0..1000).map(|i| loss(i) + noise(i)));
        let smoothed = smooth(&noisy);
        let error = |from: i32, to: i32| {
            let sum: f64 = (from..to).map(|i| smoothed[i as usize].value - loss(i)).sum();
            sum / f64::from(to - from)
        };
        for (from, to) in [(0, 50), (50, 250), (250, 500), (900, 1000)] {
            assert!(error(from, to).abs() < 0.03, "{from}: {}", error(from, to));
        }
        assert!(smooth(&[]).is_empty() && smooth(&line[..1]) == line[..1]);
    }

    #[test]
    fn an_axis_leaves_out_spikes_and_no_validation() {
        let mut values: Vec<f64> = (0..1000).map(|i| 2.0 + f64::from(i % 10) / 10.0).collect();
        values[3] = 80.0;
        let [low, high] = readable(&points(values), &points([3.5, 1.5])).expect("a range");
        assert!(low < 1.5 && low > 1.0 && high > 3.5 && high < 4.0, "{low} {high}");
        assert_eq!(readable(&[], &[]), None);
    }

    #[test]
    fn speed_is_that_of_the_steps_and_starts_where_the_log_does() {
        let even = points([0.0; 900]);
        let speeds = speed(&even[1..], 64.0);
        assert!(!speeds.is_empty() && speeds.iter().all(|point| (point.value - 64.0).abs() < 1.0));
        let late: Vec<Point> = even.iter().map(|point| Point { step: point.step + 500, ..*point }).collect();
        assert!(speed(&late, 64.0).iter().all(|point| (point.value - 64.0).abs() < 1.0));
    }
}
