//! Sizes and strides of tensors.

use super::tensors::{Place, Reader};
use super::{GET_IT_AGAIN, unsupported};
use crate::error::{Fault, Result};
use crate::pickle::Value;

/// A tensor may have so many dimensions of more than one, and some of one before them.
const MAX_DIMS: usize = 3;
const MAX_DIMS_IN_ALL: usize = 8;

impl Reader<'_> {
    /// The dimensions, row length first, and how many values they make.
    pub(super) fn dims(&self, place: Place<'_>, sizes: &[Value]) -> Result<(Vec<usize>, u64)> {
        let wrong = |problem: String| self.fault(place, problem).of_kind(Fault::Shape);
        let ones = sizes.iter().take_while(|&&size| size == Value::Int(1)).count();
        if sizes.is_empty() || sizes.len() > MAX_DIMS_IN_ALL || sizes.len() - ones > MAX_DIMS {
            return Err(wrong(format!(
                "{} dimensions, {ones} of them leading ones; expected 1 to {MAX_DIMS}, and leading ones",
                sizes.len()
            )));
        }
        let mut dims = Vec::new();
        let mut count = 1_u64;
        for &size in sizes.iter().rev() {
            let Value::Int(size) = size else {
                return Err(wrong(format!("a size that is {}; expected a number", self.description(size))));
            };
            let Some(dim) = usize::try_from(size).ok().filter(|&dim| dim > 0) else {
                return Err(wrong(format!("a size of {size}; expected 1 or more")));
            };
            let product = count.checked_mul(dim as u64).filter(|&count| i64::try_from(count).is_ok());
            count = product.ok_or_else(|| wrong(format!("sizes whose product overflows; {GET_IT_AGAIN}")))?;
            dims.push(dim);
        }
        Ok((dims, count))
    }

    /// Refuses a tensor whose values are not one after the other. Its sizes were found to be sound.
    pub(super) fn check_strides(&self, place: Place<'_>, sizes: &[Value], strides: &[Value]) -> Result<()> {
        let number = |&value: &Value| if let Value::Int(number) = value { Some(number) } else { None };
        let found: Option<Vec<i64>> = strides.iter().take(MAX_DIMS_IN_ALL + 1).map(number).collect();
        let sizes: Vec<i64> = sizes.iter().filter_map(number).collect();
        let Some(strides) = found.filter(|strides| strides.len() == sizes.len()) else {
            let problem = format!("it does not have a stride for each of its {} sizes", sizes.len());
            return Err(self.fault(place, problem).of_kind(Fault::Shape));
        };
        let mut dense: Vec<i64> = sizes
            .iter()
            .rev()
            .scan(1, |next, size| {
                let stride = *next;
                *next *= size;
                Some(stride)
            })
            .collect();
        dense.reverse();
        // One row has no next one, however far that would be.
        if sizes.iter().zip(&strides).zip(&dense).all(|((&size, stride), dense)| size == 1 || stride == dense)
        {
            return Ok(());
        }
        let is = match (&sizes[..], &strides[..]) {
            (&[rows, _], &[1, stride]) if stride == rows => "is the transpose of a matrix",
            _ => "does not have its values one after the other",
        };
        let what = format!(
            "tensor {:?} {is} (sizes {sizes:?}, strides {strides:?}; expected strides {dense:?}); save it as \
             tensor.contiguous()",
            place.name
        );
        Err(unsupported(self.path, what).of_kind(Fault::Shape))
    }
}
