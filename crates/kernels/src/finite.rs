//! Whether all elements are finite.
//!
//! The rule of the kernels: what is infinite or NaN in an input shows in the outputs that depend on it, so that
//! whoever looks at the last of them sees it. Where a formula has a limit (`σ(∞) = 1`, `max(−∞, 0) = 0`, a sum
//! weighted with `exp(−∞)`), a term `0·x` is added: ±0 for a finite x, which changes no bit of a result that is
//! not −0, and NaN otherwise.

/// Whether no element of `x` is infinite or NaN.
///
/// Infinity and NaN times 0 are NaN, and stay so in a sum; everything else gives 0. Sixteen sums side by side
/// are what a compiler makes vectors of, without a tier of its own: this reads some floats a cycle, and is
/// done once where a product has multiplied each of them by thousands.
pub fn all_finite(x: &[f32]) -> bool {
    let mut sums = [0.0_f32; 16];
    let (lines, rest) = x.as_chunks::<16>();
    for line in lines {
        sums.iter_mut().zip(line).for_each(|(sum, x)| *sum += x * 0.0);
    }
    sums.iter_mut().zip(rest).for_each(|(sum, x)| *sum += x * 0.0);
    sums.iter().all(|sum| *sum == 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_number_is_found_wherever_it_stands() {
        for len in [0, 1, 15, 16, 17, 100] {
            let largest = [f32::MAX, f32::MIN, f32::MIN_POSITIVE, -0.0, 1e-45];
            let sound: Vec<_> = (0..len).map(|i| largest[i % 5]).collect();
            assert!(all_finite(&sound), "{len}");
            for at in 0..len {
                for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
                    let mut x = sound.clone();
                    x[at] = bad;
                    assert!(!all_finite(&x), "{bad} at {at} of {len}");
                }
            }
        }
    }
}
