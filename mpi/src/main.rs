//! `rwkv-mpi train`: what `rwkv train` does, by all processes that `mpirun` started. `docs/scale.md` is its guide.

mod arguments;
mod message;
mod progress;
mod ranks;

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::ArgMatches;
use mpi::Threading;
use mpi::traits::{Communicator, CommunicatorCollectives};
use rwkv_core::go_on;
use rwkv_train::ranks::{Common, Ranks, gather};
use rwkv_train::{Error, Result, ResumeOptions, TrainOptions, Trainer};
use serde_json::{Map, Value};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

use crate::message::complain;
use crate::progress::Progress;
use crate::ranks::Mpi;

fn main() -> ExitCode {
    let matches = arguments::command().get_matches();
    let Some((_, matches)) = matches.subcommand() else { return ExitCode::from(2) };
    prefer_fragments();
    // The other threads compute, and only one of them is in MPI at a time.
    let Some((universe, threading)) = mpi::initialize_with_threading(Threading::Serialized) else {
        eprintln!("rwkv-mpi: MPI is initialized already");
        return ExitCode::FAILURE;
    };
    let mut ranks = Mpi::new(&universe);
    let world = universe.world();
    let rank = ranks.rank();
    if threading < Threading::Serialized {
        eprintln!("rwkv-mpi: this MPI cannot be called from threads: {}", library());
        return ExitCode::FAILURE;
    }
    if let Some(started) = started_by_another(ranks.count()) {
        eprintln!(
            "rwkv-mpi: {started} processes were started, and each of them sees itself alone: mpirun belongs to another MPI \
             than the one that this program is linked with, {}",
            library()
        );
        return ExitCode::FAILURE;
    }
    let name = mpi::environment::processor_name().unwrap_or_default();
    let machines = gather(&mut ranks, name.as_bytes()).unwrap_or_default();
    let machines: Vec<_> = machines.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let threads = threads_of_a_rank(world.split_shared(0).size().max(1) as usize);
    let mut trainer = match begin(matches, &mut ranks, threads) {
        Ok(trainer) => trainer,
        // All of them know it.
        Err(message) => {
            if rank == 0 {
                complain(&message, &machines);
            }
            world.barrier();
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = trainer.join(Box::new(ranks)) {
        // All of them have it.
        if rank == 0 {
            complain(&error.to_string(), &machines);
        }
        world.barrier();
        return ExitCode::FAILURE;
    }
    let progress = Progress::new(&trainer, world.size().max(1) as usize, matches.get_flag("json"));
    match learn(trainer, progress) {
        Ok(code) => {
            // None ends before rank 0 has saved: mpirun would end that one.
            world.barrier();
            code
        }
        Err(error) => {
            // What another rank met is told by that one, or by rank 0, which all have heard of it.
            if rank == 0 || !matches!(error, Error::Ranks { .. }) {
                complain(&format!("rank {rank}: {error}"), &machines);
                // Others may wait for this one, in the middle of a step.
                world.abort(1);
            }
            world.barrier();
            ExitCode::FAILURE
        }
    }
}

/// The trainer of this rank, or a sentence that all ranks have.
fn begin(matches: &ArgMatches, ranks: &mut Mpi, threads: usize) -> std::result::Result<Trainer, String> {
    let given = agree(ranks, arguments::given(matches))?;
    let resume = matches.get_one::<String>("resume");
    let names = given.iter().filter(|(name, _)| !is_own(name));
    let mut common: Vec<_> =
        names.map(|(name, value)| (format!("option {name}"), value.to_string())).collect();
    common.push(("--resume".to_owned(), resume.cloned().unwrap_or_default()));
    Common::new(common).check(ranks).map_err(|error| error.to_string())?;

    // Rank 0 has the run; what its options are there, they are for all.
    let mut trainer =
        if ranks.rank() == 0 { Some(first_trainer(&given, resume, threads, ranks.count())) } else { None };
    let said = match &trainer {
        Some(Ok(trainer)) => trainer.options().to_json().map_err(|error| error.to_string()),
        Some(Err(message)) => Err(message.clone()),
        None => Ok(String::new()),
    };
    let said = agree(ranks, said)?;
    let first = gather(ranks, said.as_bytes()).map_err(|error| error.to_string())?;
    let first = String::from_utf8_lossy(first.first().map(Vec::as_slice).unwrap_or_default()).into_owned();
    // A directory that only this trainer knows: rank 0 alone writes the run's.
    let place = tempfile::tempdir().map_err(|error| format!("a temporary directory: {error}"));
    let place = agree(ranks, place)?;
    let trainer = trainer.take().unwrap_or_else(|| {
        let mut options = TrainOptions::from_json(&first).map_err(|error| error.to_string())?;
        options.out = place.path().join("run");
        options.threads =
            Some(given.get("threads").and_then(Value::as_u64).map_or(threads, |threads| threads as usize));
        Trainer::create(&options, go_on).map_err(|error| error.to_string())
    });
    agree(ranks, trainer)
}

/// Options that may differ from rank to rank.
fn is_own(name: &str) -> bool {
    ["threads"].contains(&name)
}

fn first_trainer(
    given: &Map<String, Value>,
    resume: Option<&String>,
    threads: usize,
    count: usize,
) -> std::result::Result<Trainer, String> {
    let mut given = given.clone();
    given.entry("threads").or_insert(threads.into());
    let trainer = if let Some(directory) = resume {
        let json = Value::Object(given).to_string();
        ResumeOptions::from_json(&json)
            .map_err(Error::from)
            .and_then(|changes| Trainer::resume(directory, &changes, go_on))
    } else {
        if let (None, Some(out)) = (given.get("out"), given.get("data").and_then(arguments::default_out)) {
            given.insert("out".to_owned(), out.into());
        }
        let json = Value::Object(given).to_string();
        let options = TrainOptions::from_json(&json).map_err(|error| error.to_string())?;
        if !options.batch_size.is_multiple_of(count) {
            // Before there is a directory.
            let size = options.batch_size;
            return Err(format!(
                "--batch-size is {size}; it must be a multiple of {count}, the number of ranks"
            ));
        }
        Trainer::create(&options, go_on)
    };
    trainer.map_err(|error| error.to_string())
}

/// What this rank has, if all ranks have theirs; else what the first one that has not says of it.
fn agree<T>(ranks: &mut Mpi, own: std::result::Result<T, String>) -> std::result::Result<T, String> {
    let said = own.as_ref().err().map_or(String::new(), |message| format!("\n{message}"));
    let all = gather(ranks, said.as_bytes()).map_err(|error| error.to_string())?;
    match all.iter().position(|said| !said.is_empty()) {
        None => own,
        Some(rank) => {
            let message = String::from_utf8_lossy(&all[rank]);
            Err(format!("rank {rank}: {}", message.trim_start()))
        }
    }
}

/// The run to its end, or until this process or another one is told to end: then what the last step came to is saved.
/// Returns the code to exit with.
fn learn(mut trainer: Trainer, mut progress: Progress) -> Result<ExitCode> {
    let signal = end_by_signal().map_err(|source| Error::Ranks { problem: format!("signals: {source}") })?;
    progress.start(&trainer);
    let result = loop {
        // What nobody hears is no reason to compute on.
        let is_asked = || signal.load(Ordering::Relaxed) != 0 || !progress.is_heard();
        let control = |_, _| if is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        match trainer.advance(control) {
            Ok(Some(advance)) => progress.after(&trainer, &advance)?,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    match result {
        Ok(()) => {
            progress.end(&trainer);
            Ok(ExitCode::SUCCESS)
        }
        Err(Error::Rwkv(rwkv_core::Error::Aborted)) => {
            // Who asked may end the process soon: no time for a sample.
            if trainer.leads() {
                let saved = trainer.save_without_sample(go_on)?;
                progress.interrupted(&trainer, saved);
            }
            let signal = signal.load(Ordering::Relaxed);
            Ok(if signal == 0 { ExitCode::FAILURE } else { ExitCode::from(128 + signal as u8) })
        }
        Err(error) => {
            if matches!(error, Error::Diverged { .. }) {
                progress.diverged(&trainer);
            }
            Err(error)
        }
    }
}

/// Where the signal that asks this process to end is put, 0 until then. More of them do nothing: whoever started the
/// processes ends them by force when it has waited long enough.
fn end_by_signal() -> std::io::Result<Arc<AtomicUsize>> {
    let signal = Arc::new(AtomicUsize::new(0));
    // SIGUSR1 is what mpirun passes on without ending anything itself.
    for number in [SIGINT, SIGTERM, SIGHUP, SIGUSR1] {
        flag::register_usize(number, Arc::clone(&signal), number as usize)?;
    }
    Ok(signal)
}

/// Lets Open MPI send large messages over TCP in fragments. It would send each whole, once the other side has asked for
/// it, and two ranks that send to each other take turns: the one's request waits behind what the other is sending. At
/// 1 Gbit/s sums took twice as long.
fn prefer_fragments() {
    let name = "OMPI_MCA_btl_tcp_flags";
    if std::env::var_os(name).is_none() {
        // SAFETY: no other thread has been started that could read the environment.
        unsafe { std::env::set_var(name, "send") };
    }
}

/// How many processes a launcher started, if it is one that this MPI does not know: all of them are alone.
fn started_by_another(count: usize) -> Option<usize> {
    let names = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];
    let started = names.iter().filter_map(|name| std::env::var(name).ok()?.parse().ok()).max();
    started.filter(|&started| count == 1 && started > 1)
}

fn library() -> String {
    let version = mpi::environment::library_version()
        .unwrap_or_else(|_| "an MPI that does not say its name".to_owned());
    version.lines().next().unwrap_or_default().to_owned()
}

/// Threads of each rank, where the options name no number: the cores that it is bound to, or if it is bound to none, its
/// share of the machine's.
fn threads_of_a_rank(ranks_of_this_machine: usize) -> usize {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    // SAFETY: it only asks for a number.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }.max(1) as usize;
    if available < online { available } else { (available / ranks_of_this_machine).max(1) }
}
