//! What other programs and other ways of reading give: the tests that `.ci/arm.sh` emulates as well.

#[path = "../common/mod.rs"]
mod common;
mod fixture;
mod rwkv_cpp;
mod same_bits;
