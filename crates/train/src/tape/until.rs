//! A tape that can be stopped.

use rwkv_core::model::Network;
use rwkv_core::{Error, Result};

use super::{Tape, Whole};

/// A [`Tape`] that asks before each operator whether to stop. Once the answer is yes, no operator runs, and
/// what the pass has computed means nothing; the next pass is not affected.
#[derive(Debug)]
pub struct Until<'a, S> {
    tape: &'a mut Tape,
    stop: S,
    stopped: bool,
}

impl<'a, S: FnMut() -> bool + Send> Until<'a, S> {
    /// `tape` until `stop` answers true, which is then asked no more.
    pub fn new(tape: &'a mut Tape, stop: S) -> Self {
        Self { tape, stop, stopped: false }
    }

    /// Forward and backward: the mean loss over `targets`. The gradients, of the mean over `passes` times as
    /// many, are added to those of earlier passes, or take their place if this one is the `first`.
    ///
    /// # Errors
    /// [`Error::Aborted`] if the pass was stopped.
    pub fn learn(&mut self, network: &Network, targets: &[u32], passes: usize, first: bool) -> Result<f32> {
        self.learn_and_tell(network, targets, passes, first, &mut |_, _| ())
    }

    /// As [`learn`](Self::learn); `whole` is told what [`Tape::learn`] tells it.
    ///
    /// # Errors
    /// Those of [`learn`](Self::learn).
    pub(crate) fn learn_and_tell(
        &mut self,
        network: &Network,
        targets: &[u32],
        passes: usize,
        first: bool,
        whole: Whole<'_>,
    ) -> Result<f32> {
        self.check()?;
        if first {
            self.tape.zero_gradients();
        }
        let Self { tape, stop, stopped } = self;
        let logits = network.forward(*tape);
        let mut go_on = || {
            *stopped = *stopped || stop();
            !*stopped
        };
        let loss = tape.learn(logits, targets, passes, &mut go_on, whole);
        self.check()?;
        Ok(loss)
    }

    fn check(&mut self) -> Result<()> {
        self.stopped = self.stopped || (self.stop)();
        if self.stopped { Err(Error::Aborted) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rwkv_core::ModelConfig;
    use rwkv_core::model::Network;
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
        let pass = |tape: &mut Tape, stop: &mut (dyn FnMut() -> bool + Send)| {
            tape.begin(&tokens, 3);
            let loss = Until::new(tape, stop).learn(&network, &targets, 1, true)?;
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
