//! A tape that can be stopped.

use rwkv::exec::{Binary, Exec, Unary};
use rwkv::params::{Matrix, Vector};
use rwkv::state::Slot;
use rwkv::{Error, Result};

use super::{Tape, Tensor};

/// A [`Tape`] that asks before each operator whether to stop. Once the answer is yes, the operators that are left do
/// nothing and the tensors that they answer with mean nothing: a model's equations run to their end at once, and
/// [`cross_entropy`](Self::cross_entropy) says that they were stopped.
#[derive(Debug)]
pub struct Until<'a, S> {
    tape: &'a mut Tape,
    stop: S,
    stopped: bool,
}

impl<'a, S: FnMut() -> bool> Until<'a, S> {
    /// `tape` until `stop` answers true, which is then asked no more.
    pub fn new(tape: &'a mut Tape, stop: S) -> Self {
        Self { tape, stop, stopped: false }
    }

    /// As [`Tape::cross_entropy`].
    ///
    /// # Errors
    /// [`Error::Aborted`] if the pass was stopped.
    pub fn cross_entropy(&mut self, logits: Tensor, targets: &[u32]) -> Result<f32> {
        self.cross_entropy_of(logits, targets, 1)
    }

    /// As [`Tape::cross_entropy_of`].
    ///
    /// # Errors
    /// [`Error::Aborted`] if the pass was stopped.
    pub fn cross_entropy_of(&mut self, logits: Tensor, targets: &[u32], passes: usize) -> Result<f32> {
        let loss = self.unless_stopped(0.0, |tape| tape.cross_entropy_of(logits, targets, passes));
        self.check()?;
        Ok(loss)
    }

    /// As [`Tape::backward`].
    ///
    /// # Errors
    /// As [`cross_entropy`](Self::cross_entropy).
    pub fn backward(&mut self) -> Result<()> {
        self.tape.zero_gradients();
        self.add_gradients()
    }

    /// As [`backward`](Self::backward), adding to the gradients of earlier passes.
    ///
    /// # Errors
    /// As [`cross_entropy`](Self::cross_entropy).
    pub fn add_gradients(&mut self) -> Result<()> {
        let Self { tape, stop, stopped } = self;
        tape.backward_while(|| {
            *stopped = *stopped || stop();
            !*stopped
        });
        self.check()
    }

    /// The one place that decides whether an operator of the forward pass runs.
    fn unless_stopped<T>(&mut self, otherwise: T, operator: impl FnOnce(&mut Tape) -> T) -> T {
        if self.is_stopped() { otherwise } else { operator(self.tape) }
    }

    fn check(&mut self) -> Result<()> {
        if self.is_stopped() { Err(Error::Aborted) } else { Ok(()) }
    }

    fn is_stopped(&mut self) -> bool {
        self.stopped = self.stopped || (self.stop)();
        self.stopped
    }
}

/// What stands for the tensors that were not computed; nobody looks at it.
const NONE: Tensor = Tensor(0);

impl<S: FnMut() -> bool> Exec for Until<'_, S> {
    type Tensor = Tensor;

    fn embed(&mut self, table: Matrix) -> Tensor {
        self.unless_stopped(NONE, |tape| tape.embed(table))
    }

    fn layer_norm(&mut self, x: Tensor, weight: Vector, bias: Vector, eps: f32) -> Tensor {
        self.unless_stopped(NONE, |tape| tape.layer_norm(x, weight, bias, eps))
    }

    fn shift(&mut self, x: Tensor, slot: Slot) -> Tensor {
        self.unless_stopped(NONE, |tape| tape.shift(x, slot))
    }

    fn lerp<const N: usize>(&mut self, x: Tensor, y: Tensor, mix: [Vector; N]) -> [Tensor; N] {
        self.unless_stopped([NONE; N], |tape| tape.lerp(x, y, mix))
    }

    /// One look for each product: they are the longest operators.
    fn linears<const N: usize>(&mut self, products: [(Matrix, Tensor); N]) -> [Tensor; N] {
        products.map(|(weight, x)| self.unless_stopped(NONE, |tape| tape.linear(weight, x)))
    }

    fn unary(&mut self, f: Unary, x: Tensor) -> Tensor {
        self.unless_stopped(NONE, |tape| tape.unary(f, x))
    }

    fn binary(&mut self, f: Binary, x: Tensor, y: Tensor) -> Tensor {
        self.unless_stopped(NONE, |tape| tape.binary(f, x, y))
    }

    fn wkv4(&mut self, decay: Vector, first: Vector, k: Tensor, v: Tensor, slot: Slot) -> Tensor {
        self.unless_stopped(NONE, |tape| tape.wkv4(decay, first, k, v, slot))
    }

    fn dropout(&mut self, x: Tensor) -> Tensor {
        self.unless_stopped(NONE, |tape| Exec::dropout(tape, x))
    }

    fn needed(&mut self, x: Tensor) -> Tensor {
        self.unless_stopped(NONE, |tape| tape.needed(x))
    }

    fn outputs(&mut self, x: Tensor) -> Tensor {
        self.unless_stopped(NONE, |tape| tape.outputs(x))
    }

    fn keep<const N: usize>(&mut self, live: [Tensor; N]) -> [Tensor; N] {
        self.unless_stopped(live, |tape| tape.keep(live))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rwkv::ModelConfig;
    use rwkv::model::Network;
    use rwkv_kernels::{Cpu, Isa};

    use super::*;
    use crate::init::initialize;

    /// Wherever a pass stops, the next one is as if there had been none before.
    #[test]
    fn a_pass_can_stop_before_every_operator() {
        let config = ModelConfig::v4(7, 8, 2);
        let (network, layout, _) = Network::new(&config);
        let cpu = Arc::new(Cpu::new(Isa::Scalar, 1));
        let params = initialize(&cpu, &layout, 1);
        let (tokens, targets) = ([1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6, 0]);
        let pass = |tape: &mut Tape, stop: &mut dyn FnMut() -> bool| {
            tape.begin(&tokens, 3);
            let mut tape = Until::new(tape, stop);
            let logits = network.forward(&mut tape);
            let loss = tape.cross_entropy(logits, &targets)?;
            tape.backward()?;
            Ok::<_, Error>(loss.to_bits())
        };
        let mut fresh = Tape::new(Arc::clone(&cpu), &layout, params.clone());
        let mut looks = 0_u32;
        let loss = pass(&mut fresh, &mut || {
            looks += 1;
            false
        });
        let loss = loss.expect("a whole pass");
        assert!(looks > 80, "{looks} looks at the flag in two blocks, forward and backward");

        let mut tape = Tape::new(cpu, &layout, params);
        for at in 0..looks {
            let mut left = at;
            // True once: who raised the flag may have taken it back before the next look.
            let stopped = pass(&mut tape, &mut || {
                let now = left == 0;
                left = left.wrapping_sub(1);
                now
            });
            assert!(matches!(stopped, Err(Error::Aborted)), "look {at} of {looks}");
        }
        assert_eq!(pass(&mut tape, &mut || false).expect("a whole pass"), loss);
        assert!(tape.param_gradients() == fresh.param_gradients());
    }
}
