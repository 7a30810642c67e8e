//! Gives the library the name under which programs ask the system's loader for it.

use std::env;

fn main() {
    let system = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    let name = match system.as_str() {
        "macos" => "-Wl,-install_name,@rpath/librwkv.dylib",
        // A DLL is found by the name of its file.
        "windows" => return,
        _ => "-Wl,-soname,librwkv.so",
    };
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg={name}");
}
