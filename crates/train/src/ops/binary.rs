//! `y = f(a, b)`, element by element; `da += ∂f/∂a ⊙ dy`, `db += ∂f/∂b ⊙ dy`.

use rwkv::exec::Binary as Function;
use rwkv_kernels::{Store, accumulate, binary, binary_backward};

use crate::ops::Read;
use crate::tape::{Backward, Forward, Gradient, Tape, Tensor};

/// Saves a and b.
#[derive(Debug)]
pub(crate) struct Binary {
    f: Function,
    a: Tensor,
    b: Tensor,
    y: Tensor,
}

impl Binary {
    pub(crate) fn forward(tape: &mut Tape, f: Function, a: Tensor, b: Tensor) -> Tensor {
        let y = tape.declare(tape.width(a));
        tape.apply(Self { f, a, b, y });
        y
    }

    pub(crate) fn reads(&self, read: &mut dyn FnMut(Tensor, Read)) {
        let when = if self.f == Function::Add { Read::Forward } else { Read::Both };
        read(self.a, when);
        read(self.b, when);
    }

    pub(crate) fn name(&self) -> &'static str {
        self.f.name()
    }

    pub(crate) fn run(&self, t: &mut Forward<'_>) {
        t.fill_rows([self.y], |cpu, _, values, rows, [y]| {
            let [a, b] = [self.a, self.b].map(|x| values.rows_of(x, rows.clone()));
            binary(cpu, self.f, a, b, y);
        });
    }

    pub(crate) fn backward(&self, t: &mut Backward<'_>) {
        let dy = t.gradients.take(self.y);
        if self.f == Function::Add {
            // Both gradients are dy itself.
            contribute(t, &dy, self.a);
            contribute(t, &dy, self.b);
        } else if self.a == self.b {
            // Both gradients are of the same tensor: the kernel writes them apart, and they are added.
            let mut db = vec![0.0; dy.len()];
            self.contribute_to_a(t, &dy, &mut db, Store::Set);
            let mut da = t.gradients.open(self.a, dy.len());
            accumulate(t.cpu, &db, da.values());
            t.gradients.close(da);
        } else {
            let mut db = t.gradients.open(self.b, dy.len());
            let store = db.store;
            self.contribute_to_a(t, &dy, db.values(), store);
            t.gradients.close(db);
        }
        t.gradients.release(dy);
    }

    /// `da += ∂f/∂a ⊙ dy`; `db`, set or added to, is the caller's.
    fn contribute_to_a(&self, t: &mut Backward<'_>, dy: &[f32], db: &mut [f32], db_store: Store) {
        let (a, b) = (t.values.get(self.a), t.values.get(self.b));
        let mut da = t.gradients.open(self.a, dy.len());
        let store = da.store;
        binary_backward(t.cpu, self.f, a, b, dy, da.values(), store, db, db_store);
        t.gradients.close(da);
    }
}

/// `dx += dy`, without a copy where dx has no other contribution yet.
fn contribute(t: &mut Backward<'_>, dy: &Gradient, x: Tensor) {
    if !t.gradients.share(dy, x) {
        let mut dx = t.gradients.open(x, dy.len());
        debug_assert_eq!(dx.store, Store::Add);
        accumulate(t.cpu, dy, dx.values());
        t.gradients.close(dx);
    }
}

#[cfg(test)]
mod tests {
    use rwkv::params::Layout;

    use super::*;
    use crate::ops::check::Case;

    #[test]
    fn gradient() {
        for &f in Function::ALL {
            let case = Case::new(Layout::default(), &[(3, 5), (3, 5)], 3);
            case.check(|tape, x| vec![Binary::forward(tape, f, x[0], x[1])]);
        }
    }

    #[test]
    fn gradient_where_an_input_is_used_again() {
        for &f in Function::ALL {
            let case = Case::new(Layout::default(), &[(3, 5), (3, 5)], 3);
            case.check(|tape, x| {
                let y = Binary::forward(tape, f, x[0], x[1]);
                let z = Binary::forward(tape, f, y, x[0]);
                vec![Binary::forward(tape, f, z, z)]
            });
        }
    }
}
