//! Gives the library the name under which programs ask the system's loader for it: with the number of its
//! interface, so that a later one that is not compatible can stand beside it.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let system = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    let (file, name, option) = match system.as_str() {
        "macos" => ("librwkv.dylib", "librwkv.0.dylib", "-Wl,-install_name,@rpath/"),
        // A DLL is found by the name of its file.
        "windows" => return,
        _ => ("librwkv.so", "librwkv.so.0", "-Wl,-soname,"),
    };
    println!("cargo::rustc-cdylib-link-arg={option}{name}");
    link(file, name);
}

/// `name` beside the library that cargo makes, so that programs find it there too. Without it they still
/// link; only running them from cargo's directory fails, so nothing that goes wrong here stops a build.
#[cfg(unix)]
fn link(file: &str, name: &str) {
    // <profile>/build/rwkv-capi-<hash>/out
    let out = env::var("OUT_DIR").unwrap_or_default();
    if let Some(directory) = std::path::Path::new(&out).ancestors().nth(3) {
        let path = directory.join(name);
        let _ = std::fs::remove_file(&path);
        let _ = std::os::unix::fs::symlink(file, path);
    }
}

#[cfg(not(unix))]
fn link(_: &str, _: &str) {}
