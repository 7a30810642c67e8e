#!/usr/bin/env bash
# Runs tests under ThreadSanitizer, which reports data races: those of teams of threads and of models that threads
# share (fuzz/threads). "hostile [seconds]" adds sessions that come and go at random, for five minutes if not said
# otherwise; "all" adds every test of the kernels, of inference, of texts, of sessions and of training.
#
# It needs a standard library that is instrumented too: with the usual one, what a mutex or a condition
# variable orders is reported as a race. So the library is compiled here, from the toolchain's own source
# (rustup component add rust-src), or on Debian 12 from that of the packages below, which are installed.
# Elsewhere this says so and exits with 3. A race on purpose (crates/kernels/tests/race.rs) has to be found
# first.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "ThreadSanitizer: $*" >&2; }

if [ "$(uname -s)" != Linux ]; then
  say 'not run here: this is for Linux'
  exit 3
fi
mkdir -p .cache
machine=$(uname -m)
target=$machine-unknown-linux-gnu
export RUSTC_BOOTSTRAP=1 # unstable flags of a stable compiler
export RUSTFLAGS=-Zsanitizer=thread
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/tsan"
# Most of the time goes into compiling, and the standard library takes the profile's settings too. Reports
# name functions without debug information; with RWKV_TSAN_LINES=1 they name lines.
export CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_CODEGEN_UNITS=8 CARGO_INCREMENTAL=0
export CARGO_PROFILE_DEV_DEBUG=${RWKV_TSAN_LINES:-0}
cargo=(cargo)

# Debian's compiler, its library's source, and LLVM's sanitizers for it. Its version goes with the compiler's
# LLVM.
use_debian() {
  local packages=(rustc-web cargo-web rust-web-src) sudo=()
  [ "$(id -u)" = 0 ] || sudo=(sudo -n)
  local apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -qq -y)
  install() {
    dpkg-query --show "$@" >/dev/null 2>&1 && return
    say "installing $*"
    {
      "${apt[@]}" update || true # a source that has nothing to do with us may be out of order
      "${apt[@]}" install --no-install-recommends "$@"
    } >>.cache/tsan-apt.log 2>&1 || {
      tail -n 20 .cache/tsan-apt.log >&2
      say "that failed. By hand, as root: apt-get update; apt-get install $*"
      exit 1
    }
  }
  install "${packages[@]}"
  export RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc
  cargo=(/usr/bin/cargo)
  local llvm runtime
  llvm=$($RUSTC -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
  install "libclang-rt-$llvm-dev"
  runtime=$(dpkg -L "libclang-rt-$llvm-dev" | grep -E "/libclang_rt\.tsan-$machine\.a$")
  RUSTFLAGS+=" -Zexternal-clangrt -Zpre-link-arg=-Wl,--whole-archive -Zpre-link-arg=$runtime"
  RUSTFLAGS+=' -Zpre-link-arg=-Wl,--no-whole-archive -Zpre-link-arg=-Wl,--export-dynamic -Clink-arg=-lm'
}

if [ ! -d "$(rustc --print sysroot)/lib/rustlib/src/rust/library/std" ]; then
  if [ "$machine" = x86_64 ] && grep -qs '^VERSION_CODENAME=bookworm$' /etc/os-release; then
    use_debian
  else
    say 'not run here: the toolchain has no source of the standard library (rustup component add rust-src)'
    exit 3
  fi
fi

# Names in reports; LLVM's own program is faster than binutils'.
symbolizer=$(command -v llvm-symbolizer || command -v addr2line || true)
export TSAN_OPTIONS="exitcode=66 ${symbolizer:+external_symbolizer_path=$symbolizer}"

run() {
  "${cargo[@]}" test --config 'profile.dev.package."*".opt-level=0' --quiet --locked -Zbuild-std=std,test -Zbuild-std-features=panic-unwind --target "$target" "$@"
}

threads=(--manifest-path fuzz/Cargo.toml -p rwkv-threads)
if run "${threads[@]}" --test race -- --ignored >.cache/tsan-race.log 2>&1 ||
  ! grep -q 'WARNING: ThreadSanitizer: data race' .cache/tsan-race.log; then
  tail -n 30 .cache/tsan-race.log >&2
  say 'the race on purpose was not found, so nothing that follows would mean anything'
  exit 1
fi
say 'the race on purpose was found'

status=0
run --no-fail-fast "${threads[@]}" --tests || status=1
if [ "${1-}" = hostile ]; then
  RWKV_HOSTILE_SECONDS=${2:-300} run -p rwkv-session --test hostile -- --nocapture || status=1
fi
if [ "${1-}" = all ]; then
  run --no-fail-fast -p rwkv-kernels -p rwkv-core -p rwkv-text -p rwkv-session -p rwkv-train --lib --tests || status=1
fi
exit "$status"
