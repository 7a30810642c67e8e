//! Reports of training runs, and what they show in figures.

// napi leaves its registration out of test builds, and with it the only use of what is here.
#![cfg_attr(test, allow(dead_code))]

use std::path::Path;

use napi_derive::napi;
use rwkv_train::report::{self, RunView};

use crate::job::Job;

/// Writes `report.html` into the directory of a run.
#[napi(ts_return_type = "Promise<void>")]
pub(crate) fn write_report(run: String) -> Job<()> {
    Job::run(move || Ok(report::write_report(Path::new(&run))?))
}

/// Writes the report of one run, or of several in one page, to `out`. A file there that is no report is replaced
/// only with `force`.
#[napi(ts_return_type = "Promise<void>")]
pub(crate) fn write_report_to(runs: Vec<String>, out: String, force: bool) -> Job<()> {
    Job::run(move || Ok(report::write_report_to(&runs, Path::new(&out), force)?))
}

/// A run in figures, as JSON.
#[napi(ts_return_type = "Promise<string>")]
pub(crate) fn run_summary(run: String) -> Job<String> {
    Job::run(move || Ok(RunView::read(&run)?.summary().to_json()))
}

/// The curves of a run's losses, as JSON.
#[napi(ts_return_type = "Promise<string>")]
pub(crate) fn run_losses(run: String) -> Job<String> {
    Job::run(move || Ok(RunView::read(&run)?.losses().to_json()))
}
