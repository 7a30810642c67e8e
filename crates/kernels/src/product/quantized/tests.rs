use super::*;
use crate::product::Weights;
use crate::testing::{stored_matrix as matrix, values};
use crate::{Cpu, WEIGHTS_PER_BLOCK};

fn product(cpu: &Cpu, panels: Panels<'_>, x: &[f32]) -> Vec<f32> {
    let mut activations = Activations::default();
    activations.set(cpu, panels.format(), x, panels.cols());
    let mut y = vec![f32::NAN; activations.tokens() * panels.rows()];
    let parts = Parts::new(&mut y);
    cpu.run_blocks(panels.count(), 2, |range| task(cpu.isa(), panels, &activations, range, &parts));
    y
}

const SHAPES: [(usize, usize); 5] = [(1, 32), (16, 64), (19, 32), (48, 96), (70, 1056)];

#[test]
fn panels_are_the_matrix_times_the_rounded_activations() {
    for format in DataType::QUANTIZED {
        for (rows, cols) in SHAPES {
            let bytes = matrix(format, rows, cols);
            let w = Weights::new(format, rows, cols, &bytes).expect("the length fits");
            let mut packed = vec![0xff; Panels::len(format, rows, cols).expect("it is quantized")];
            let panels = Panels::pack(&Cpu::new(Isa::Scalar, 2), w, &mut packed);
            let x = values(5, 3 * cols, 2.0);
            let mut activations = Activations::default();
            activations.set(&Cpu::new(Isa::Scalar, 1), format, &x, cols);
            let y = product(&Cpu::new(Isa::Scalar, 1), panels, &x);
            let mut weights = vec![0.0; cols];
            for row in 0..rows {
                w.read_row(row, &mut weights);
                for token in 0..3 {
                    let x = activations
                        .of(token)
                        .flat_map(|b| b.integers.map(|q| f64::from(q) * f64::from(b.scale)));
                    let terms = x.zip(&weights).map(|(x, &w)| x * f64::from(w));
                    let (sum, size) = terms.fold((0.0, 0.0), |(s, a), t| (s + t, a + t.abs()));
                    // Roundings: of d·scale, of each block's one or two additions, of the offset, and those
                    // of `read_row`, which a minimum makes as large as the minimum. Integers are exact.
                    let bound = (cols / WEIGHTS_PER_BLOCK * 3 + 8) as f64
                        * f64::from(f32::EPSILON)
                        * (size + 0.01 * 2.0 * cols as f64);
                    let got = f64::from(y[token * rows + row]);
                    assert!(
                        (got - sum).abs() <= bound,
                        "{format:?} ({rows}, {cols}) [{token}, {row}]: {got}, not {sum}"
                    );
                }
            }
        }
    }
}

#[test]
fn all_tiers_tokens_and_threads_give_the_same_bits() {
    for format in DataType::QUANTIZED {
        for (rows, cols) in SHAPES {
            let bytes = matrix(format, rows, cols);
            let w = Weights::new(format, rows, cols, &bytes).expect("the length fits");
            let mut packed = vec![0; Panels::len(format, rows, cols).expect("it is quantized")];
            let panels = Panels::pack(&Cpu::new(Isa::Scalar, 2), w, &mut packed);
            let x = values(5, 37 * cols, 2.0);
            let want = product(&Cpu::new(Isa::Scalar, 1), panels, &x);
            for isa in Isa::available() {
                for tokens in [1, 2, 3, 4, 7, 8, 16, 31, 37] {
                    let y = product(&Cpu::new(isa, 1 + tokens % 3), panels, &x[..tokens * cols]);
                    assert_eq!(
                        y,
                        want[..tokens * rows],
                        "{isa} {format:?} ({rows}, {cols}), {tokens} tokens"
                    );
                }
            }
        }
    }
}

#[test]
fn the_largest_integers_do_not_overflow() {
    // All weights at their extremes, all activations at theirs: where 16-bit sums would wrap first.
    for format in DataType::QUANTIZED {
        for fill in [0x00, 0x80, 0xff, 0x7f] {
            let (rows, cols) = (16, 64);
            let mut bytes = vec![fill; rows * format.row_bytes(cols).expect("whole blocks")];
            for block in bytes.chunks_exact_mut(format.block().1) {
                block[..2].copy_from_slice(&half::f16::ONE.to_le_bytes());
                if format.has_minimum() {
                    block[2..4].copy_from_slice(&half::f16::ONE.to_le_bytes());
                }
            }
            let w = Weights::new(format, rows, cols, &bytes).expect("the length fits");
            let mut packed = vec![0; Panels::len(format, rows, cols).expect("it is quantized")];
            let panels = Panels::pack(&Cpu::new(Isa::Scalar, 1), w, &mut packed);
            for x in [1.0, -1.0] {
                let x = vec![x; 27 * cols];
                let want = product(&Cpu::new(Isa::Scalar, 1), panels, &x);
                for isa in Isa::available() {
                    assert_eq!(product(&Cpu::new(isa, 1), panels, &x), want, "{isa} {format:?} {fill:#x}");
                }
            }
        }
    }
}

#[test]
fn a_nan_shows_in_every_output_of_its_token_alone() {
    let (rows, cols) = (20, 64);
    let bytes = matrix(DataType::Q5_1, rows, cols);
    let w = Weights::new(DataType::Q5_1, rows, cols, &bytes).expect("the length fits");
    let mut packed = vec![0; Panels::len(DataType::Q5_1, rows, cols).expect("it is quantized")];
    let panels = Panels::pack(&Cpu::new(Isa::Scalar, 1), w, &mut packed);
    let mut x = values(5, 3 * cols, 2.0);
    x[cols + 40] = f32::NAN;
    for isa in Isa::available() {
        let y = product(&Cpu::new(isa, 1), panels, &x);
        let nans: Vec<_> = y.chunks_exact(rows).map(|y| y.iter().filter(|y| y.is_nan()).count()).collect();
        assert_eq!(nans, [0, rows, 0], "{isa}");
    }
}
