//! Trains with default options and prints how fast: `train TEXT OUT [STEPS] [SEED] [f32|bf16] [profile] [JSON]`, where
//! JSON is an object of further options, such as `{"arch":"v4"}`.

use rwkv_core::{Error, go_on};
use rwkv_train::{TrainOptions, TrainPrecision, Trainer};

fn main() -> rwkv_train::Result<()> {
    let args: Vec<_> = std::env::args().collect();
    let (Some(data), Some(out)) = (args.get(1), args.get(2)) else {
        eprintln!("usage: train TEXT OUT [STEPS] [SEED] [f32|bf16] [profile] [JSON]");
        return Ok(());
    };
    let more = args.last().filter(|arg| arg.starts_with('{')).map_or("{}", String::as_str);
    let given = more.replacen('{', &format!("{{\"data\":{data:?},\"out\":{out:?},"), 1).replace(",}", "}");
    let mut options = TrainOptions::from_json(&given)?;
    options.max_steps = args.get(3).and_then(|steps| steps.parse().ok()).unwrap_or(options.max_steps);
    options.seed = args.get(4).and_then(|seed| seed.parse().ok()).unwrap_or(options.seed);
    options.precision = match args.get(5).map(String::as_str) {
        Some("f32") => Some(TrainPrecision::F32),
        Some("bf16") => Some(TrainPrecision::Bf16),
        Some(other) => return Err(Error::option("precision", other, "f32 or bf16").into()),
        None => None,
    };
    let mut trainer = Trainer::create(&options, go_on)?;
    println!("{} parameters, {} threads", trainer.n_params(), trainer.threads());
    let profile = std::env::args().any(|arg| arg == "profile");
    if profile {
        trainer.take_time();
    }
    let mut tokens = 0;
    while !trainer.done() {
        let report = trainer.step(go_on)?;
        tokens += report.tokens;
        if report.step % 50 == 0 {
            let speed = tokens as f64 / trainer.seconds();
            println!(
                "{:5}  loss {:.3}  |g| {:.2}  {speed:.0} tokens/s",
                report.step, report.loss, report.grad_norm
            );
        }
    }
    println!("{:.0} tokens/s", tokens as f64 / trainer.seconds());
    if profile {
        let profile = trainer.profile();
        for part in &profile.parts {
            let (share, seconds) =
                (100.0 * profile.share(part.time), part.time.as_secs_f64() / profile.threads as f64);
            let [operations, bytes] =
                [part.cost.operations, part.cost.bytes].map(|work| work as f64 / seconds / 1e9);
            let name = format!("{:?} {}", part.pass, part.name);
            println!("{name:34} {share:5.1} %  {operations:5.0} GFLOP/s  {bytes:5.1} GB/s");
        }
        let (peak, memory) = (profile.peak_operations / 1e9, profile.read_bandwidth / 1e9);
        println!(
            "waiting and the rest {:19.1} %, of {peak:.0} GFLOP/s and {memory:.1} GB/s",
            100.0 * profile.rest()
        );
    }
    println!("validation {:.4}", trainer.validate(go_on)?);
    trainer.save_checkpoint(go_on)?;
    trainer.save_model(go_on)?;
    println!(
        "{}",
        trainer.sample(
            "\n",
            300,
            rwkv_core::SamplerOptions { temperature: 0.8, ..Default::default() },
            go_on
        )?
    );
    Ok(())
}
