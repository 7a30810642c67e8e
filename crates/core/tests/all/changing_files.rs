//! Model files that change while they are in use: an error that says so, and never a signal, a panic or other
//! logits.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::common::{cpu, tokens, values, write};
use rwkv_core::{DataType, Error, LoadOptions, Model, ModelConfig, ModelFile, Result, quantize};
use rwkv_kernels::Isa;
use tempfile::TempDir;

/// Some pages of each matrix.
const CONFIG: ModelConfig = ModelConfig { n_vocab: 300, ..ModelConfig::v4(300, 64, 2) };

/// A directory with `model.bin`.
struct Place(TempDir);

impl Place {
    fn new(data_type: DataType) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let written = if data_type.is_quantized() { DataType::F32 } else { data_type };
        write(place.path(), &CONFIG, &values(&CONFIG, 1), written);
        if data_type.is_quantized() {
            let small = place.0.path().join("small.bin");
            let go_on = |_, _| ControlFlow::Continue(());
            quantize(place.path(), &small, data_type, &LoadOptions::default(), go_on).unwrap();
            fs::rename(small, place.path()).unwrap();
        }
        place
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("model.bin")
    }

    fn load(&self, threads: usize) -> Model {
        Model::load_on(self.path(), cpu(Isa::detect(), threads)).unwrap()
    }

    /// The file, to be written to in place.
    fn file(&self) -> File {
        OpenOptions::new().write(true).open(self.path()).unwrap()
    }
}

fn read(model: &Model) -> Result<Vec<f32>> {
    model.eval(&tokens(CONFIG.n_vocab, 40), &mut model.new_state())
}

fn is_changed(path: &Path, error: &Error) {
    assert_eq!(error.code(), "FILE_CHANGED", "{error}");
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()) && text.contains("load it again"), "{text}");
}

/// What may happen to a file, and what the error says of it.
type Change = (&'static str, fn(&Place), &'static str);

const CHANGES: [Change; 5] = [
    ("emptied", |place| place.file().set_len(0).unwrap(), "and has 0"),
    ("cut in the middle of a page", |place| place.file().set_len(50_001).unwrap(), "and has 50001"),
    ("overwritten by a smaller one", |place| fs::write(place.path(), [7; 100]).unwrap(), "and has 100"),
    (
        "longer",
        |place| {
            let len = fs::metadata(place.path()).unwrap().len();
            place.file().set_len(len + 1).unwrap();
        },
        "bytes and has",
    ),
    (
        "overwritten by one of the same size",
        |place| {
            let other = vec![0x11; fs::metadata(place.path()).unwrap().len() as usize];
            place.file().write_all(&other).unwrap();
        },
        "it was written to",
    ),
];

/// Of quantized models the embedding and the head are mapped.
#[test]
fn the_answer_is_an_error_and_the_state_stays() {
    for data_type in DataType::ALL {
        for threads in [1, 3] {
            for (what, change, says) in CHANGES {
                let place = Place::new(data_type);
                let model = place.load(threads);
                let mut state = model.new_state();
                model.eval(&[1, 2, 3], &mut state).unwrap();
                let before = state.clone();
                change(&place);
                for _ in 0..2 {
                    let error = model.eval(&[4, 5], &mut state).unwrap_err();
                    is_changed(&place.path(), &error);
                    assert!(error.to_string().contains(says), "{what}: {error}");
                    assert_eq!(state, before, "{what}");
                }
                assert!(model.evaluate(&[1, 2, 3], None, |_, _| ControlFlow::Continue(())).is_err());
            }
        }
    }
}

#[test]
fn a_file_that_is_replaced_or_removed_is_no_harm() {
    for data_type in [DataType::F16, DataType::Q5_1] {
        let place = Place::new(data_type);
        let model = place.load(1);
        let expected = read(&model).unwrap();
        // As this crate, and every careful program, replaces files.
        write(place.path(), &CONFIG, &values(&CONFIG, 2), DataType::F32);
        assert_eq!(read(&model).unwrap(), expected);
        let other = place.load(1);
        assert_ne!(read(&other).unwrap(), expected);
        fs::remove_file(place.path()).unwrap();
        assert_eq!(read(&model).unwrap(), expected);
    }
}

/// Pages disappear between the looks at the file's size: the handler of SIGBUS has to act.
#[cfg(unix)]
#[test]
fn a_file_that_is_cut_during_a_pass_is_an_error() {
    let whole = fs::read(Place::new(DataType::F32).path()).unwrap();
    let place = Place::new(DataType::F32);
    let expected = read(&place.load(1)).unwrap();
    for round in 0..60 {
        let copy = place.0.path().join(format!("{round}.bin"));
        fs::write(&copy, &whole).unwrap();
        let model = Model::load_on(&copy, cpu(Isa::detect(), 1 + round % 2)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let file = OpenOptions::new().write(true).open(&copy).unwrap();
                file.set_len(100 + 1000 * round as u64).unwrap();
            });
            // However long it takes until the other thread is run.
            let error = loop {
                match read(&model) {
                    Ok(logits) => assert_eq!(logits, expected),
                    Err(error) => break error,
                }
            };
            is_changed(&copy, &error);
        });
        is_changed(&copy, &read(&model).unwrap_err());
        fs::remove_file(&copy).unwrap();
    }
}

/// What reads the map with no look in between: every page that is gone becomes zeros.
#[cfg(unix)]
#[test]
fn pages_that_are_gone_are_zeros_until_somebody_asks() {
    let place = Place::new(DataType::F32);
    let file = ModelFile::open(place.path()).unwrap();
    let head = file.layout().find("head.weight").unwrap();
    assert!(file.tensor(head).1.iter().any(|&byte| byte != 0));
    file.check().unwrap();
    place.file().set_len(64).unwrap();
    assert!(file.tensor(head).1.iter().all(|&byte| byte == 0));
    is_changed(&place.path(), &file.check().unwrap_err());
    // The file is as long as before, and still what was read from it was not its content.
    place.file().set_len(file.len()).unwrap();
    is_changed(&place.path(), &file.check().unwrap_err());
    let copy = place.0.path().join("copy.bin");
    is_changed(&place.path(), &file.write_to(&copy).unwrap_err());
    assert!(!copy.exists());
}

#[test]
fn a_changed_file_is_not_taken_for_the_model_that_was_loaded_from_it() {
    let place = Place::new(DataType::F32);
    let model = place.load(1);
    let expected = read(&model).unwrap();
    let bytes = fs::read(place.path()).unwrap();
    place.file().set_len(1000).unwrap();
    assert!(read(&model).is_err());
    let mut file = place.file();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&bytes).unwrap();
    assert_eq!(read(&place.load(1)).unwrap(), expected);
    is_changed(&place.path(), &read(&model).unwrap_err());
}

#[test]
fn an_input_that_changes_while_it_is_quantized_is_an_error() {
    for (what, change, _) in CHANGES {
        let place = Place::new(DataType::F32);
        let output = place.0.path().join("small.bin");
        let mut pending = true;
        let progress = |done, _| {
            if done > 0 && std::mem::take(&mut pending) {
                change(&place);
            }
            ControlFlow::Continue(())
        };
        let error =
            quantize(place.path(), &output, DataType::Q8_0, &LoadOptions::default(), progress).unwrap_err();
        assert_eq!(error.code(), "FILE_CHANGED", "{what}: {error}");
        assert!(!output.exists(), "{what}");
    }
}

/// A bus error of somebody else still ends the process: the handler is for our own maps alone.
#[cfg(unix)]
#[test]
fn a_bus_error_elsewhere_is_not_hidden() {
    use std::os::unix::process::ExitStatusExt;
    const CHILD: &str = "RWKV_TEST_BUS_ERROR";
    if let Some(how) = std::env::var_os(CHILD) {
        let place = Place::new(DataType::F32);
        let model = place.load(1);
        read(&model).unwrap();
        if how == "sent" {
            // SAFETY: sending a signal to oneself touches no memory.
            unsafe { libc::raise(libc::SIGBUS) };
        }
        let path = place.0.path().join("other");
        fs::write(&path, vec![1; 1 << 16]).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        // SAFETY: that reading it goes wrong is what this is about.
        let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
        file.set_len(0).unwrap();
        println!("{}", map[5000]);
        return;
    }
    for how in ["read", "sent"] {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "changing_files::a_bus_error_elsewhere_is_not_hidden"])
            .env(CHILD, how)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(libc::SIGBUS), "{how}: {status}");
    }
}
