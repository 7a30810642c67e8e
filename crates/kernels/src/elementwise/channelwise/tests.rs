use super::*;
use crate::Isa;
use crate::testing::{assert_close, assert_gradient, dot, every_tier, f64s, set_and_add, shapes, values};

/// The formulas.
fn exact(f: Channelwise, [a, b, c]: [f64; MOST], p: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match f {
        Channelwise::Shift => a + p,
        Channelwise::Scale => a * p,
        Channelwise::SigmoidOfSum => sigmoid(a + p),
        Channelwise::Decay => (-(-0.5_f64).exp() * sigmoid(a + p)).exp(),
        Channelwise::PartlyGated => a * (1.0 + (b - 1.0) * p),
        Channelwise::Towards => a + (b - a) * sigmoid(c + p),
    }
}

fn exact_all(f: Channelwise, x: &[Vec<f64>; MOST], p: &[f64]) -> Vec<f64> {
    (0..x[0].len()).map(|i| exact(f, [0, 1, 2].map(|n| x[n][i]), p[i % p.len()])).collect()
}

/// y, the gradients of three inputs (zeros if there are fewer) and dp.
fn run(cpu: &Cpu, f: Channelwise, x: &[Vec<f32>; MOST], p: &[f32], dy: &[f32]) -> Vec<Vec<f32>> {
    match f.inputs() {
        1 => run_n::<1>(cpu, f, x, p, dy),
        2 => run_n::<2>(cpu, f, x, p, dy),
        _ => run_n::<3>(cpu, f, x, p, dy),
    }
}

fn run_n<const N: usize>(
    cpu: &Cpu,
    f: Channelwise,
    x: &[Vec<f32>; MOST],
    p: &[f32],
    dy: &[f32],
) -> Vec<Vec<f32>> {
    let x: [&[f32]; N] = std::array::from_fn(|i| x[i].as_slice());
    let mut results = vec![vec![f32::NAN; dy.len()]];
    channelwise(cpu, f, x, p, &mut results[0]);
    let backward = |input: usize, result: &mut [f32], store: Store, dp: &mut [f32]| {
        let mut others = vec![vec![0.0; dy.len()]; N];
        let mut result = Some(result);
        let mut others = others.iter_mut();
        let dx: [_; N] = std::array::from_fn(|i| match (i == input, result.take()) {
            (true, Some(result)) => (result, store),
            (_, kept) => {
                result = kept;
                (others.next().expect("one for each").as_mut_slice(), Store::Add)
            }
        });
        channelwise_backward(cpu, f, x, p, dy, dx, dp);
    };
    for input in 0..MOST {
        results.push(if input < N {
            set_and_add(dy.len(), |dx, store| backward(input, dx, store, &mut vec![0.0; p.len()]))
        } else {
            vec![0.0; dy.len()]
        });
    }
    let mut dp = vec![0.0; p.len()];
    backward(0, &mut vec![0.0; dy.len()], Store::Set, &mut dp);
    results.push(dp);
    results
}

fn inputs(len: usize, scale: f32) -> [Vec<f32>; MOST] {
    [(1, scale), (2, 1.0), (3, scale)].map(|(seed, scale)| values(seed, len, scale))
}

#[test]
fn every_tier_and_thread_count_agrees() {
    for &f in Channelwise::ALL {
        for (rows, width) in shapes() {
            let (x, p, dy) = (inputs(rows * width, 8.0), values(4, width, 2.0), values(5, rows * width, 1.0));
            // dp sums over thousands of rows, in another order.
            let got = every_tier(&format!("{f:?}"), 2e-5, |cpu| run(cpu, f, &x, &p, &dy));
            let x = x.each_ref().map(|x| f64s(x));
            assert_close(&format!("{f:?}"), 1e-6, &got[0], &exact_all(f, &x, &f64s(&p)));
        }
    }
}

#[test]
fn the_backward_is_the_derivative() {
    for &f in Channelwise::ALL {
        let (x, p, dy) = (inputs(3 * 19, 4.0), values(4, 19, 2.0), values(5, 3 * 19, 1.0));
        let got = every_tier(&format!("{f:?}"), 5e-6, |cpu| run(cpu, f, &x, &p, &dy));
        let (x64, p64) = (x.each_ref().map(|x| f64s(x)), f64s(&p));
        for input in 0..f.inputs() {
            assert_gradient(&format!("{f:?} {input}"), &x[input], &got[1 + input], |of_input| {
                let mut x = x64.clone();
                x[input] = of_input.to_vec();
                dot(&exact_all(f, &x, &p64), &dy)
            });
        }
        assert_gradient(&format!("{f:?} dp"), &p, &got[4], |p| dot(&exact_all(f, &x64, p), &dy));
    }
}

/// Decays and gates that training has moved far out.
#[test]
fn large_inputs_give_finite_results_and_gradients() {
    for &f in Channelwise::ALL {
        for isa in Isa::available() {
            for (a, p) in [(1e4, 3.0), (-1e4, 3.0), (1.0, 1e4), (1.0, -1e4), (80.0, 20.0), (-80.0, -20.0)] {
                let got = run(&Cpu::new(isa, 1), f, &[[a; 3]; MOST].map(Vec::from), &[p; 3], &[1.0; 3]);
                assert!(got.iter().flatten().all(|x| x.is_finite()), "{f:?}, {isa}, {a}, {p}: {got:?}");
            }
        }
    }
}

#[test]
fn an_infinite_input_shows() {
    for &f in Channelwise::ALL {
        for isa in Isa::available() {
            for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
                for input in 0..=f.inputs() {
                    let (mut x, mut p) = ([const { [0.5; 19] }; MOST], [2.0; 19]);
                    if input == f.inputs() {
                        p[7] = bad;
                    } else {
                        x[input][7] = bad;
                    }
                    let (cpu, mut y) = (Cpu::new(isa, 1), [0.0; 19]);
                    f.forward(&cpu, x.each_ref().map(|x| &x[..]), &p, &mut y);
                    let shows: Vec<_> = (0..19).filter(|&i| !y[i].is_finite()).collect();
                    assert_eq!(shows, [7], "{f:?}, {isa}, input {input}, {bad}: {y:?}");
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "inputs of Scale")]
fn another_number_of_inputs_is_refused() {
    let x = [0.0; 2];
    channelwise(&Cpu::new(Isa::Scalar, 1), Channelwise::Scale, [&x, &x], &x, &mut [0.0; 2]);
}
