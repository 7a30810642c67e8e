//! `y = x Wᵀ`, x (T, K), W (N, K); `dx += dy W`, `dW += dyᵀ x`.
//!
//! W may be frozen, and then be in any format of a file: there is no dW, and dx is the gradient through the
//! decoded weights.

use rwkv_core::params::Matrix;
use rwkv_kernels::{
    Packing, RowsOf, linear_dx_packed, linear_frozen, linear_frozen_dx, linear_packed, pack_rows, packed_len,
};

use crate::ops::Read;
use crate::profile::Pass;
use crate::tape::{Backward, Forward, PACKING, Pending, Tape, Tensor, Values, packing_of};

/// Saves x as `dW` multiplies it, if W is trained. `dW` waits for all sequences.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Matrix,
    x: Tensor,
    y: Tensor,
}

impl Linear {
    pub(crate) fn forward(tape: &mut Tape, weight: Matrix, x: Tensor) -> Tensor {
        let outputs = tape.params.layout().specs()[weight.index()].rows;
        let y = tape.declare(outputs);
        tape.apply(Self { weight, x, y });
        y
    }

    pub(crate) fn reads(&self, read: &mut dyn FnMut(Tensor, Read)) {
        read(self.x, Read::Forward);
    }

    pub(crate) fn weight(&self) -> Matrix {
        self.weight
    }

    pub(crate) fn input(&self) -> Tensor {
        self.x
    }

    pub(crate) fn output(&self) -> Tensor {
        self.y
    }

    /// What products are called in a profile.
    pub(crate) const NAME: &'static str = "products";

    #[allow(clippy::unused_self)]
    pub(crate) fn name(&self) -> &'static str {
        Self::NAME
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        let Some(weight) = t.weights.get(self.weight) else {
            return t.fill([self.y], |t, [y]| {
                linear_frozen(t.cpu, t.values.get(self.x), t.params.matrix(self.weight), y);
            });
        };
        t.values.pack(t.cpu, t.profile, self.x, t.params.is_trained(self.weight.index()));
        t.fill([self.y], |t, [y]| {
            linear_packed(t.cpu, t.values.packed_rows(self.x), weight, self.sizes(t.values), y);
        });
    }

    /// N and K.
    fn sizes(&self, values: &Values) -> [usize; 2] {
        [self.y, self.x].map(|tensor| values.width(tensor))
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let dy = t.gradients.take(self.y);
        let mut dx = t.gradients.open(self.x, t.values.len(self.x));
        let store = dx.store;
        let Some(weight) = t.weights.get(self.weight) else {
            linear_frozen_dx(t.cpu, &dy, t.params.matrix(self.weight), dx.values(), store);
            t.gradients.close(dx);
            return t.gradients.release(dy);
        };
        let (width, of) = (t.values.width(self.y), t.values.rows());
        let pooled = |packing| t.gradients.pooled(packed_len(t.cpu, packing, of, width));
        let mut rows = (!Packing::Rows.is_as_it_is(t.cpu)).then(|| pooled(Packing::Rows));
        let mut output = t.params.is_trained(self.weight.index()).then(|| pooled(Packing::Output));
        let along = rows.as_mut().map(|rows| (Packing::Rows, &mut **rows));
        let across = output.as_mut().map(|output| (Packing::Output, &mut **output));
        let (start, outs) = (t.profile.start(), usize::from(along.is_some()) + usize::from(across.is_some()));
        pack_rows(t.cpu, &dy, width, RowsOf { first: 0, of }, along.into_iter().chain(across));
        let work = || packing_of(t.cpu, dy.len(), outs);
        t.profile.stop(start, (Pass::Backward, PACKING), t.cpu.threads(), work);
        if let Some(dy) = output {
            let (k, x) = (t.values.width(self.x), t.values.packed_input(self.x));
            t.pending.push(Pending::Product { weight: self.weight, k, x, dy });
        }
        linear_dx_packed(
            t.cpu,
            rows.as_deref().unwrap_or(&dy),
            weight,
            self.sizes(t.values),
            dx.values(),
            store,
        );
        t.gradients.release(dy);
        t.gradients.close(dx);
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::path::Path;

    use rwkv_core::model::Network;
    use rwkv_core::params::{Initial, Layout};
    use rwkv_core::store::Parameters;
    use rwkv_core::{DataType, LoadOptions, ModelConfig, ModelFile, quantize, write_model};
    use rwkv_kernels::{self as kernels, Cpu, Isa};

    use super::*;
    use crate::ops::check::{Case, numbers};

    #[test]
    fn gradient() {
        let mut layout = Layout::default();
        let weight = layout.matrix("weight", 5, 6, Initial::ZEROS);
        let case = Case::new(layout, &[(4, 6)], 4);
        case.check(|tape, x| vec![Linear::forward(tape, weight, x[0])]);
    }

    #[test]
    fn gradient_of_two_products_of_one_input() {
        let mut layout = Layout::default();
        let (a, b) = (layout.matrix("a", 5, 6, Initial::ZEROS), layout.matrix("b", 3, 6, Initial::ZEROS));
        let case = Case::new(layout, &[(4, 6)], 4);
        case.check(|tape, x| vec![Linear::forward(tape, a, x[0]), Linear::forward(tape, b, x[0])]);
    }

    /// A small model's parameters, as they come from a file in `format`.
    fn frozen(directory: &Path, format: DataType) -> Parameters {
        let config = ModelConfig::v4(5, 32, 1);
        let (_, layout, _) = Network::new(&config);
        let values: Vec<_> =
            layout.specs().iter().zip(1..).map(|(spec, seed)| numbers(seed, spec.len())).collect();
        let (plain, path) = (directory.join("plain.bin"), directory.join(format!("{format}.bin")));
        if format.is_quantized() {
            write_model(&plain, &config, &layout, &values, DataType::F32).expect("a file");
            let go_on = |_, _| ControlFlow::Continue(());
            quantize(&plain, &path, format, &LoadOptions::default(), go_on).expect("a file");
        } else {
            write_model(&path, &config, &layout, &values, format).expect("a file");
        }
        let file = ModelFile::open(&path).expect("the file");
        Parameters::of_file(file, &Cpu::new(Isa::Scalar, 1), |_, _| ControlFlow::Continue(()))
            .expect("the parameters")
    }

    #[test]
    fn gradient_through_a_frozen_matrix_of_every_format() {
        let directory = tempfile::tempdir().expect("a directory");
        for format in DataType::ALL {
            let params = frozen(directory.path(), format);
            let specs = params.layout().specs();
            // (128, 32), a block of weights a row, and (32, 128).
            for name in ["blocks.0.ffn.key.weight", "blocks.0.ffn.value.weight"] {
                let index = specs.iter().position(|spec| spec.name == name).expect(name);
                let weight = params.matrix_at(index).expect("a matrix");
                let is_panels = matches!(params.matrix(weight), kernels::Matrix::Panels(_));
                assert!(is_panels == format.is_quantized() && params.f32_matrix(weight).is_none());
                let case = Case::over(params.clone(), &[(2, specs[index].cols)], 2);
                // The second gradient of x is added to the first.
                case.check(|tape, x| [weight; 2].map(|weight| Linear::forward(tape, weight, x[0])).to_vec());
            }
        }
    }
}
