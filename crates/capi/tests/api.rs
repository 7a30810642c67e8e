//! librwkv from C: compiles C programs with the system's compiler, links them to the library, and runs them.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use rwkv_core::model::Network;
use rwkv_core::{DataType, LoadOptions, Model, ModelConfig, write_model};

/// The shape that `api.c` expects.
const CONFIG: ModelConfig = ModelConfig::v4(61, 32, 3);

/// The directory of `librwkv`, built in the profile that this test was. Cargo does not do it by itself: a
/// test in Rust cannot link to a C library.
fn library() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        // <profile>/deps/api-<hash>
        let directory = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "rwkv-capi", "--lib"]);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        succeed(cargo.current_dir(env!("CARGO_MANIFEST_DIR")));
        let library = directory.join(format!("{DLL_PREFIX}rwkv{DLL_SUFFIX}"));
        assert!(library.exists(), "cargo has not made {}", library.display());
        directory
    })
}

/// Runs a command to its end; fails with its output if it does.
fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    output
}

fn compiler() -> OsString {
    std::env::var_os("CC").unwrap_or_else(|| "cc".into())
}

/// Compiles `source`, a path in this package, into `directory`.
fn compile(source: &str, directory: &Path) -> PathBuf {
    let compiler = compiler();
    assert!(
        Command::new(&compiler).arg("--version").output().is_ok(),
        "these tests compile C programs and there is no C compiler {}: \
         install one (Debian, Ubuntu: apt-get install gcc libc6-dev; macOS: xcode-select --install) or set CC",
        compiler.display()
    );
    let program = directory.join(Path::new(source).file_stem().unwrap());
    let mut command = Command::new(compiler);
    command
        .args(["-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-pthread"])
        .args(["-I", "include", source, "-o"])
        .arg(&program)
        .arg("-L")
        .arg(library())
        .args(["-lrwkv", "-lm"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    succeed(&mut command);
    program
}

/// `program`, so that it finds the library.
fn run(program: impl AsRef<OsStr>, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(directory).env("LD_LIBRARY_PATH", library()).env("DYLD_LIBRARY_PATH", library());
    command
}

/// A model whose weights have no pattern and are about as large as trained ones.
fn write_example(path: &Path, config: &ModelConfig) {
    let (_, layout, _) = Network::new(config);
    let mut state = 1_u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let values = layout.specs().iter().map(|spec| {
        let scale = if spec.is_matrix() { (3.0 / spec.cols as f32).sqrt() } else { 1.0 };
        // Files hold a decay below zero.
        let decays = spec.name.ends_with("time_decay");
        (0..spec.len())
            .map(|_| scale * uniform())
            .map(|value| if decays { -value.abs() - 0.01 } else { value })
            .collect::<Vec<_>>()
    });
    write_model(path, config, &layout, &values.collect::<Vec<_>>(), DataType::F32).unwrap();
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Fills `directory` with all that `api.c` reads; the expected values are those of the Rust interface on
/// `isa`.
fn prepare(directory: &Path, isa: Option<&str>) {
    let model = directory.join("model.bin");
    write_example(&model, &CONFIG);
    damage(directory, &fs::read(&model).unwrap());
    write_example(&directory.join("odd-rows.bin"), &ModelConfig::v4(61, 24, 1));
    for format in DataType::QUANTIZED {
        let output = directory.join(format!("{format}.bin"));
        rwkv_core::quantize(
            &model,
            output,
            format,
            &LoadOptions::default(),
            |_, _| ControlFlow::Continue(()),
        )
        .unwrap();
    }
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::ffi::OsStrExt as _;
        fs::copy(&model, directory.join(OsStr::from_bytes(b"mod\xe8le.bin"))).unwrap();
    }

    let tokens: Vec<u32> = (0..150).map(|i| i * i * 7 % 61).collect();
    let options = LoadOptions { threads: Some(1), isa: isa.map(|isa| isa.parse().unwrap()) };
    let model = Model::load(&model, &options).unwrap();
    let mut state = model.new_state();
    let logits = model.eval(&tokens, &mut state).unwrap();
    assert!(logits.iter().all(|logit| logit.is_finite()) && logits.iter().any(|&logit| logit > logits[0]));
    let token_bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    fs::write(directory.join("tokens.bin"), token_bytes).unwrap();
    fs::write(directory.join("logits.bin"), bytes(&logits)).unwrap();
    fs::write(directory.join("state.bin"), bytes(state.as_slice())).unwrap();
}

/// The damaged files: `sound` with some bytes changed.
fn damage(directory: &Path, sound: &[u8]) {
    let with = |at: usize, byte: u8| {
        let mut bytes = sound.to_vec();
        bytes[at] = byte;
        bytes
    };
    let numbers =
        |numbers: &[u32]| -> Vec<u8> { numbers.iter().flat_map(|number| number.to_le_bytes()).collect() };
    let vector = |name: &str| {
        let head = numbers(&[1, name.len() as u32, 0, 32]);
        [sound, &head, name.as_bytes(), &[0; 4 * 32]].concat()
    };
    let files = [
        ("empty.bin", Vec::new()),
        ("short-header.bin", sound[..23].to_vec()),
        ("magic.bin", with(0, b'g')),
        ("version.bin", with(4, 102)),
        ("no-vocabulary.bin", with(8, 0)),
        ("vocabulary.bin", with(8, 60)),
        ("one-layer-more.bin", with(16, 4)),
        ("unknown-type.bin", with(20, 77)),
        ("removed-type.bin", with(20, 5)),
        ("tensor-shape.bin", with(24, 4)),
        ("tensor-name.bin", with(28, 0)),
        ("tensor-type.bin", with(32, 77)),
        ("tensor-twice.bin", vector("ln_out.bias")),
        ("v6.bin", vector("blocks.0.att.time_maa_x")),
        ("cut.bin", sound[..sound.len() - 1].to_vec()),
        ("trailing.bin", [sound, &[0]].concat()),
    ];
    for (name, bytes) in files {
        fs::write(directory.join(name), bytes).unwrap();
    }
}

fn check(output: &Output) {
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(out.trim(), "all checks passed");
    // Printing is on until the test switches it off, and one error happens in that time.
    let err = String::from_utf8_lossy(&output.stderr);
    let messages: Vec<_> = err.lines().filter(|line| line.starts_with("rwkv: ")).collect();
    assert!(matches!(&messages[..], [message] if message.contains("missing.bin")), "{err}");
}

#[test]
fn every_promise_of_the_header() {
    let directory = tempfile::tempdir().unwrap();
    prepare(directory.path(), None);
    let program = compile("tests/api.c", directory.path());
    check(&succeed(&mut run(program, directory.path())));
}

/// Needs valgrind. Where there is none the test passes and says so, unless `RWKV_VALGRIND` is "required".
#[test]
fn no_byte_is_misused_and_none_is_lost() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        let required = std::env::var("RWKV_VALGRIND").is_ok_and(|value| value == "required");
        assert!(!required, "there is no valgrind, and RWKV_VALGRIND says that it is required: install it");
        // Past the test harness, which keeps what passing tests print to itself.
        let _ = writeln!(std::io::stderr(), "skipped: there is no valgrind to run the C test under");
        return;
    }
    // Valgrind knows no AVX-512.
    let isa = if cfg!(target_arch = "x86_64") { Some("avx2") } else { None };
    let directory = tempfile::tempdir().unwrap();
    prepare(directory.path(), isa);
    let program = compile("tests/api.c", directory.path());
    let mut valgrind = run("valgrind", directory.path());
    valgrind
        // One thread runs at a time; fairly, or those that spin hold up the one they wait for.
        .args(["--quiet", "--error-exitcode=1", "--leak-check=full", "--fair-sched=try"])
        .arg(format!("--suppressions={}/tests/valgrind.supp", env!("CARGO_MANIFEST_DIR")))
        .arg(program)
        .arg("brief")
        .envs(isa.map(|isa| ("RWKV_ISA", isa)));
    check(&succeed(&mut valgrind));
}

/// What `model` writes after `prompt` if it always takes the likeliest of its tokens, which are `texts`.
fn likeliest(path: &Path, texts: &[Vec<u8>], prompt: &[u32]) -> Vec<u8> {
    let model = Model::load(path, &LoadOptions::default()).unwrap();
    let mut state = model.new_state();
    let mut written: Vec<u8> = prompt.iter().flat_map(|&token| texts[token as usize].clone()).collect();
    let mut logits = model.eval(prompt, &mut state).unwrap();
    for _ in 0..20 {
        let best = (0..texts.len())
            .reduce(|best, token| if logits[token] > logits[best] { token } else { best })
            .unwrap();
        written.extend(&texts[best]);
        logits = model.eval(&[best as u32], &mut state).unwrap();
    }
    written.push(b'\n');
    written
}

#[test]
fn the_example_goes_on_with_a_text() {
    let directory = tempfile::tempdir().unwrap();
    let program = compile("examples/generate.c", directory.path());
    let generate = |model: &str, temperature: &str| {
        succeed(run(&program, directory.path()).args([model, "Call me", "20", temperature])).stdout
    };

    let path = directory.path().join("bytes.bin");
    write_example(&path, &ModelConfig::v4(256, 32, 2));
    let texts: Vec<_> = (0..=255).map(|byte| vec![byte]).collect();
    let expected = likeliest(&path, &texts, &b"Call me".map(u32::from));
    assert_eq!(generate("bytes.bin", "0"), expected);
    // With a temperature, as many bytes, but others.
    let warm = generate("bytes.bin", "2.5");
    assert_eq!(warm.len(), expected.len());
    assert!(warm.starts_with(b"Call me") && warm != expected);

    // The default of a training run: characters, in every length and with everything that JSON escapes.
    let run_directory = directory.path().join("run");
    fs::create_dir(&run_directory).unwrap();
    let path = run_directory.join("model.bin");
    let characters = "\n\t\u{8}\u{c}\r\u{1}\"\\/ Cacelmz€ßé猫🐋";
    let tokenizer =
        rwkv_text::Tokenizer::from(rwkv_text::Characters::of_text(characters).unwrap().with_bytes());
    tokenizer.save(run_directory.join("tokenizer.json")).unwrap();
    let n_vocab = tokenizer.n_vocab();
    write_example(&path, &ModelConfig::v4(n_vocab, 32, 2));
    let texts: Vec<_> = (0..n_vocab as u32).map(|token| tokenizer.decode(&[token]).unwrap()).collect();
    let expected = likeliest(&path, &texts, &tokenizer.encode("Call me").unwrap());
    assert_eq!(generate("run/model.bin", "0"), expected);
    assert!(generate("run/model.bin", "3").starts_with(b"Call me"));

    // What is no character of the vocabulary is read in bytes.
    let prompt = ["run/model.bin", "Call Xö", "1", "0"];
    let unknown = succeed(run(&program, directory.path()).args(prompt)).stdout;
    assert!(unknown.starts_with("Call Xö".as_bytes()));
}

#[test]
fn the_example_is_c99_and_cpp17() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/generate.c");
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/include");
    let strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-I", include, source];
    succeed(Command::new(compiler()).arg("-std=c99").args(strict));
    // Most C compilers take C++ as well; one that lacks its headers is no fault of ours.
    let probe = tempfile::tempdir().unwrap();
    let empty = probe.path().join("empty.cpp");
    fs::write(&empty, "#include <cstdlib>\n").unwrap();
    let cpp = ["-x", "c++", "-std=c++17"];
    if Command::new(compiler()).args(cpp).arg("-fsyntax-only").arg(&empty).output().unwrap().status.success()
    {
        succeed(Command::new(compiler()).args(cpp).args(strict));
    } else {
        let _ = writeln!(std::io::stderr(), "skipped: there is no C++ compiler");
    }
}
