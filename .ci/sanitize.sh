#!/usr/bin/env bash
# The short form of what CONTRIBUTING.md calls longer proofs, in three minutes at most: every fuzz target
# reads its seeds and goes on for some seconds under AddressSanitizer, and Miri runs where it is installed. Each is
# counted as a test.
set -uo pipefail
cd "$(dirname "$0")/.."

SECONDS_EACH=${1:-2}
status=0

result() {
  local name=$1 code=$2
  if [ "$code" = 0 ]; then
    echo "test result: ok. 1 passed; 0 failed; $name"
  else
    echo "test result: FAILED. 0 passed; 1 failed; $name"
    status=1
  fi
}

fuzz() {
  local target=$1 programs=$2 dictionary=model_file
  case $target in tokenizer | run_directory | lora) dictionary=json ;;
  pth | safetensors | gguf) dictionary=formats ;; esac
  local found=fuzz/artifacts/$target new log=.cache/fuzz-$target.log
  mkdir -p "$found"
  new=$(mktemp -d)
  # Seeds are read only: what is new goes into the first directory.
  "$programs/$target" "$new" "fuzz/seeds/$target" "-dict=fuzz/dictionaries/$dictionary.dict" \
    "-max_total_time=$SECONDS_EACH" -timeout=10 -rss_limit_mb=2048 "-artifact_prefix=$found/" \
    -print_final_stats=1 >"$log" 2>&1
  local code=$?
  rm -rf "$new"
  [ $code = 0 ] || tail -n 60 "$log" >&2
  echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs"
  result "fuzz target $target" $code
}

mkdir -p .cache
case "$(uname -s)" in
Linux | Darwin)
  # A small quarantine of freed memory: fresh pages for every input cost more than all the rest.
  export ASAN_OPTIONS=quarantine_size_mb=8:malloc_context_size=8:detect_odr_violation=0
  if programs=$(bash fuzz/build.sh short); then
    for target in fuzz/fuzz_targets/*.rs; do
      fuzz "$(basename "$target" .rs)" "$programs"
    done
  else
    result 'building the fuzz targets' 1
  fi
  ;;
*) echo 'fuzz targets: not run here; they are for Linux and macOS' ;;
esac

# It says what it misses and exits with 3 where it cannot run.
bash .ci/miri.sh short
code=$?
[ $code = 3 ] || result miri $code
exit $status
