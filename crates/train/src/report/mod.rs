//! The report of a training run: `report.html`, one page that loads nothing.
//!
//! [`RunView`] is what the files of a run say of it, [`render`] makes a page of one run, or of several beside each
//! other, and [`write_report`] writes that of a run into its directory. A page has its styles, its script, the
//! plotting library (uPlot) and its curves in it; these are smoothed and reduced here, so that a page is small
//! however long the run was, and a browser draws what it is given.
//!
//! A report says what is known: `model.bin` is the model of a step only if `result.json` says so of the very file
//! that is there. It names files and no directories of the machine that it was made on.

mod page;
mod read;
mod series;
mod summary;
mod text;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use rwkv_core::write_atomically;

pub use page::render;
pub use read::RunView;
pub use summary::{Loss, Losses, Summary};

use crate::error::{Error, Result};
use crate::run::fault;

/// How a page of ours begins.
const MARK: &str = "<!doctype html>\n<!-- a report of rwkv -->\n";

/// Writes `report.html` into the directory of a run, whole or not at all.
///
/// # Errors
/// Those of [`RunView::read`]; [`rwkv_core::Error::Io`] if it cannot be written.
pub fn write_report(run: &Path) -> Result<()> {
    let page = render(&[RunView::read(run)?]);
    write_atomically(&run.join("report.html"), |w| w.write_all(page.as_bytes()))?;
    Ok(())
}

/// Writes the report of one run, or of several in one page, to `out`. A file that is there and is no report of
/// ours stays, unless `force` is given.
///
/// # Errors
/// [`Error::Run`] if such a file is there; otherwise as [`write_report`].
pub fn write_report_to(runs: &[impl AsRef<Path>], out: &Path, force: bool) -> Result<()> {
    let runs = runs.iter().map(RunView::read).collect::<Result<Vec<_>>>()?;
    let page = render(&runs);
    if !force && !is_free(out)? {
        let problem = "this file is no report of rwkv; give another name, or force to have it replaced";
        return Err(fault(out, problem));
    }
    write_atomically(out, |w| w.write_all(page.as_bytes()))?;
    Ok(())
}

/// Whether a report can take this place: nothing is there, or a report.
fn is_free(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => return Ok(false),
        Ok(_) => (),
        // Why it cannot be looked at is told when it is written.
        Err(_) => return Ok(true),
    }
    let mut head = Vec::new();
    let file = File::open(path).map_err(Error::io("read", path))?;
    file.take(MARK.len() as u64).read_to_end(&mut head).map_err(Error::io("read", path))?;
    Ok(head == MARK.as_bytes())
}
