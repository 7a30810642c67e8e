//! A data race on purpose. `.ci/tsan.sh` runs it to prove that ThreadSanitizer would see one in a loop of a
//! `Team`; a report is what it hopes for.

use rwkv_kernels::{Cpu, Isa, Parts};

#[test]
#[ignore = "a data race on purpose, for ThreadSanitizer"]
fn two_indices_write_one_element() {
    let cpu = Cpu::new(Isa::Scalar, 2);
    let mut values = vec![0_u64; 1];
    let parts = Parts::new(&mut values);
    // Long enough for the second thread to take part.
    for _ in 0..1000 {
        cpu.run(64, |index| {
            // SAFETY: none. `Parts::item` asks that no two threads have the same element, and here all have
            // it: that is the fault which is to be seen.
            *unsafe { parts.item(0) } += index as u64;
        });
    }
    assert!(values[0] > 0);
}
