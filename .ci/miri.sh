#!/usr/bin/env bash
# Runs tests under Miri, an interpreter that sees undefined behaviour: uses of memory that is freed, out of
# bounds or not initialised, references that must not exist together, data races. It comes with nightly Rust:
#
#   rustup toolchain install nightly --component miri,rust-src
#
#   .ci/miri.sh          all that it can run, in an hour or so
#   .ci/miri.sh short    parameters, files' numbers, states, sampler: a minute or two
#
# Exits with 3 if Miri is not installed, with 1 if it found something.
set -uo pipefail
cd "$(dirname "$0")/.."

if ! version=$(cargo +nightly miri --version 2>&1); then
  echo 'Miri: not installed, so nothing was checked (rustup toolchain install nightly --component miri,rust-src)' >&2
  exit 3
fi
echo "Miri: $version" >&2

# - Files and the clock: tests write to temporary directories, and Miri keeps programs from them otherwise.
# - Tree borrows: `Parts` hands out exclusive slices that are carved from one pointer, as slices of the
#   standard library are; the older rules (stacked borrows) refuse some of that which the compiler does not
#   use.
# - Many seeds would be tried with -Zmiri-many-seeds; one is enough for what has no threads.
export MIRIFLAGS='-Zmiri-disable-isolation -Zmiri-tree-borrows -Zmiri-symbolic-alignment-check'
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/miri"
# Miri runs none of the vector instructions in full, and scalar code is what they are all compared with.
export RWKV_ISA=scalar
# Property tests with a handful of cases: a case takes seconds here.
export PROPTEST_CASES=4 PROPTEST_DISABLE_FAILURE_PERSISTENCE=1

status=0
miri() {
  cargo +nightly miri test --quiet --locked --no-fail-fast "$@" || status=1
}

# Files are mapped by a system call that Miri lacks, and so are signals: what loads a model is left out. So is
# crates/text, which has no unsafe code; there is some in libraries that it uses, in C and vector instructions.
miri -p rwkv-core --lib -- params:: state:: sampler:: data_type:: fingerprint:: error::
miri -p rwkv-kernels --lib -- team:: --skip sleeping_workers
if [ "${1-}" != short ]; then
  miri -p rwkv-kernels --lib -- --skip team:: --skip avx --skip amx --skip same_bits
  miri -p rwkv-train --lib -- ops:: schedule:: optimizer:: data::
  # The order of threads, drawn anew each time.
  MIRIFLAGS+=' -Zmiri-many-seeds=0..16' miri -p rwkv-kernels --test team
fi
exit $status
