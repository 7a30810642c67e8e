//! Memory of parameters, gradients and moments: a step goes through all of it, and with pages of 4 KB each of them would
//! be missed in the TLB, and filled one at a time when the first step begins.

/// Vectors of zeros of these lengths, in huge pages where the system has them.
pub(crate) fn zeros(lengths: impl Iterator<Item = usize>) -> Vec<Vec<f32>> {
    // All of them first: those of a few hundred kilobytes lie side by side, and share a huge page.
    let vectors: Vec<_> = lengths.map(|len| vec![0.0; len]).collect();
    #[cfg(target_os = "linux")]
    vectors.iter().for_each(advise);
    vectors
}

/// Bytes from which on the allocator gives a vector pages of its own, which are not there before they are written.
#[cfg(target_os = "linux")]
const LARGE: usize = 1 << 17;

/// Bytes of a huge page.
#[cfg(target_os = "linux")]
const HUGE: usize = 1 << 21;

/// `MADV_COLLAPSE` of Linux 6.1: fills a range with huge pages now, also where some small pages are there already, as the
/// one that the allocator writes a vector's size to.
#[cfg(target_os = "linux")]
const COLLAPSE: libc::c_int = 25;

/// Asks for huge pages. Only advice: without it pages are small, and nothing else differs.
#[cfg(target_os = "linux")]
fn advise(vector: &Vec<f32>) {
    let (start, len) = (vector.as_ptr().addr(), size_of_val(&**vector));
    if len >= LARGE {
        let first = vector.as_ptr().cast::<u8>().wrapping_sub(start % HUGE).cast_mut();
        let whole = (start % HUGE + len).next_multiple_of(HUGE);
        for advice in [libc::MADV_HUGEPAGE, COLLAPSE] {
            // SAFETY: this advice changes no byte of the range, whosever its first and last pages are, and skips what is
            // not mapped.
            let _ = unsafe { libc::madvise(first.cast(), whole, advice) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_zeros_and_can_be_written() {
        let lengths = [0, 1, 40_000, 3, 1_000_003];
        let mut vectors = zeros(lengths.into_iter());
        for (vector, len) in vectors.iter_mut().zip(lengths) {
            assert!(*vector == vec![0.0; len]);
            vector.fill(1.0);
        }
        for (vector, len) in vectors.iter_mut().zip(lengths) {
            vector.extend([2.0; 5]);
            assert!(vector[..len] == vec![1.0; len] && vector[len..] == [2.0; 5]);
        }
    }
}
