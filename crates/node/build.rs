//! Lets the linker leave Node's own symbols undefined.
fn main() {
    napi_build::setup();
}
