//! Trains with options given as JSON, and prints what the closing note wants to know.
use std::sync::atomic::AtomicBool;

use rwkv_train::{TrainOptions, Trainer};

fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

fn main() -> rwkv_train::Result<()> {
    let options = TrainOptions::from_json(&std::env::args().nth(1).unwrap_or_default())?;
    let mut trainer = Trainer::create(&options)?;
    let never = AtomicBool::new(false);
    println!(
        "{} of {} parameters are trained; peak {:.0} MiB",
        trainer.n_trained(),
        trainer.n_params(),
        peak()
    );
    if options.eval_interval > 0 {
        println!("before: validation {:.4}", trainer.validate(&never, |_| ())?);
    }
    let (mut tokens, mut seconds) = (0, 0.0);
    while !trainer.done() {
        let report = trainer.step()?;
        if report.step > 1 {
            tokens += report.tokens;
            seconds += report.seconds;
        }
        if report.step % 100 == 0 || report.step < 4 {
            println!(
                "{:5} loss {:.4} {:.0} tokens/s peak {:.0} MiB",
                report.step,
                report.loss,
                tokens as f64 / f64::max(seconds, 1e-9),
                peak()
            );
        }
    }
    println!("{:.1} tokens/s after the first step; peak {:.0} MiB", tokens as f64 / seconds, peak());
    if options.eval_interval > 0 {
        println!("after: validation {:.4}", trainer.validate(&never, |_| ())?);
        trainer.save_checkpoint()?;
        trainer.save_model()?;
        println!(
            "{}: {} bytes",
            trainer.result().display(),
            std::fs::metadata(trainer.result()).map_or(0, |m| m.len())
        );
    }
    println!("peak {:.0} MiB", peak());
    Ok(())
}
