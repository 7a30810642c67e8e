//! Numbers from JavaScript made into counts. All of them cross the border as floats and are checked here: a
//! parameter of type `u32` would take 2³² + 1 for 1 without a word.

use rwkv_core::Error;

use crate::failure::Result;

/// The largest float up to which all whole numbers are exact: 2⁵³ − 1.
const MAX_SAFE: f64 = 9_007_199_254_740_991.0;

/// A whole number; none stays none.
///
/// # Errors
/// `INVALID_OPTION` with the option's name if it is negative, fractional, not a number or too large to be
/// exact.
pub(crate) fn whole(name: &'static str, value: Option<f64>) -> Result<Option<u64>> {
    match value {
        Some(value) if !(0.0..=MAX_SAFE).contains(&value) || value.fract() != 0.0 => {
            Err(Error::option(name, value, "a whole number from 0 to 2^53 − 1").into())
        }
        value => Ok(value.map(|value| value as u64)),
    }
}

/// A whole number of things in memory; none stays none. What makes sense is asked where it is used.
///
/// # Errors
/// As [`whole`].
pub(crate) fn count(name: &'static str, value: Option<f64>) -> Result<Option<usize>> {
    // A count beyond a 32-bit machine's range is beyond every limit there is.
    Ok(whole(name, value)?.map(|value| usize::try_from(value).unwrap_or(usize::MAX)))
}
