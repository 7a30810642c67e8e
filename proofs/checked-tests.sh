#!/usr/bin/env bash
# Runs the Rust tests with what comes nearest to Miri where that is not installed, or cannot go: vector
# instructions, mapped files, system calls.
#
#   proofs/checked-tests.sh address    every test of kernels, inference, texts and training under AddressSanitizer
#                                      and the standard library's own checks of unsafe calls
#   proofs/checked-tests.sh valgrind   the kernels' unit tests and those of inference under valgrind's memcheck, which
#                                      also sees uses of memory that nothing was written to
#
# Without an argument both. Exits with 1 if a test failed or something was found.
set -uo pipefail
cd "$(dirname "$0")/.."

target=$(rustc -vV | sed -n 's/^host: //p')
base=${CARGO_TARGET_DIR:-target}
status=0

address() {
  export RUSTC_BOOTSTRAP=1 RUSTFLAGS='-Zsanitizer=address -Zub-checks=yes' CARGO_TARGET_DIR=$base/asan
  # Bus errors of mapped files are for our own handler; a test sees where it passes them on.
  ASAN_OPTIONS=detect_stack_use_after_return=1:handle_sigbus=0 \
    cargo test --quiet --locked --no-fail-fast --target "$target" -p rwkv-kernels -p rwkv-core \
    -p rwkv-text -p rwkv-train --lib --tests || status=1
}

memcheck() {
  command -v valgrind >/dev/null || { echo 'valgrind is not installed' >&2; status=1; return; }
  # Property tests with fewer cases: each instruction takes some thirty times as long.
  export PROPTEST_CASES=8
  local upper
  upper=$(tr 'a-z-' 'A-Z_' <<<"$target")
  # One thread of many at a time, in turns; a worker that spins would hold up the one that it waits for.
  export "CARGO_TARGET_${upper}_RUNNER=valgrind --quiet --error-exitcode=1 --leak-check=no --fair-sched=try"
  cargo test --quiet --locked --no-fail-fast --target "$target" -p rwkv-kernels -p rwkv-core --lib || status=1
}

case "${1-both}" in
address) address ;;
valgrind) memcheck ;;
both) (address; exit $status) || status=1; (memcheck; exit $status) || status=1 ;;
*) echo "address, valgrind or nothing, not $1" >&2; exit 1 ;;
esac
exit $status
