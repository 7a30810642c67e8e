#!/usr/bin/env bash
# Builds all fuzz targets as `cargo fuzz build` does, with the same flags and so with the same cache, but
# without cargo-fuzz and with a stable compiler. Prints the directory of the programs.
#
#   fuzz/build.sh          quick programs, for fuzzing
#   fuzz/build.sh short    quickly built ones
set -euo pipefail
cd "$(dirname "$0")"

profile=release
if [ "${1-}" = short ]; then
  profile=short
  export CXXFLAGS="${CXXFLAGS-} -g0" # libFuzzer's own lines are of no use here
fi
if ! command -v "${CXX:-c++}" >/dev/null; then
  echo 'fuzz/build.sh: libFuzzer is compiled from C++, and there is no compiler c++ (Debian, Ubuntu: apt-get install g++)' >&2
  exit 1
fi
target=$(rustc -vV | sed -n 's/^host: //p')
flags=(
  -Cpasses=sancov-module
  -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
  -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares
  --cfg fuzzing
  -Cllvm-args=-simplifycfg-branch-fold-threshold=0
  -Zsanitizer=address
)
[[ $target != *-linux-* ]] || flags+=(-Cllvm-args=-sanitizer-coverage-stack-depth)
flags+=(-Cdebug-assertions)
[ $profile = short ] || flags+=(-Ccodegen-units=1)

# As cargo-fuzz writes them, with a space before the first: what was compiled with other flags is compiled
# again.
export RUSTFLAGS=" ${flags[*]}" RUSTC_BOOTSTRAP=1 ASAN_OPTIONS=detect_odr_violation=0
cargo build --quiet --locked --profile $profile --target "$target" --bins >&2
echo "${CARGO_TARGET_DIR:-$PWD/target}/$target/$profile"
