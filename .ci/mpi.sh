#!/usr/bin/env bash
# rwkv-mpi with an MPI as a user has it: two ranks learn what one does, twice the same bytes, go on after one of them was
# killed, and refuse what they cannot do. Debian 12 has Open MPI, which is installed; elsewhere this says so and does
# nothing. Each check is counted as a test.
set -uo pipefail
cd "$(dirname "$0")/.."

say() { echo "MPI: $*" >&2; }

if [ "$(uname -sm)" != 'Linux x86_64' ] || ! grep -qs '^VERSION_CODENAME=bookworm$' /etc/os-release; then
  say 'not tested here: this is for Debian 12 on x86-64'
  exit 0
fi
mkdir -p .cache
packages=(openmpi-bin libopenmpi-dev libclang-dev)
if ! dpkg-query --show "${packages[@]}" >/dev/null 2>&1; then
  say "installing ${packages[*]}"
  root=$([ "$(id -u)" = 0 ] || echo sudo -n)
  apt=($root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -qq -y)
  { "${apt[@]}" update || true; "${apt[@]}" install --no-install-recommends "${packages[@]}"; } >.cache/mpi-apt.log 2>&1 || {
    tail -n 20 .cache/mpi-apt.log >&2
    say "that failed. By hand, as root: apt-get update; apt-get install ${packages[*]}"
    exit 1
  }
fi

# What others have published is compiled already, for the tests.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}"
# What is trained here is small: less care in compiling saves a minute.
cargo rustc --locked --manifest-path mpi/Cargo.toml --config 'profile.dev.opt-level=1' --bin rwkv-mpi -- -D warnings || exit 1
program=$CARGO_TARGET_DIR/${CARGO_BUILD_TARGET-}/debug/rwkv-mpi

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cat docs/*.md >"$place/text"
status=0
result() {
  if [ "$2" = 0 ]; then
    echo "test result: ok. 1 passed; 0 failed; rwkv-mpi: $1"
  else
    echo "test result: FAILED. 0 passed; 1 failed; rwkv-mpi: $1"
    head -n 5 "$place"/*.log >&2
    status=1
  fi
}
# run RANKS NAME OPTIONS…: what it says is in NAME.log.
run() {
  local ranks=$1 name=$2
  shift 2
  timeout 100 mpirun --allow-run-as-root --oversubscribe -n "$ranks" "$program" train --threads 1 "$@" >"$place/$name.log" 2>&1
}
options=(--data "$place/text" --ctx-len 64 --batch-size 8 --n-layer 2 --n-embd 64 --precision f32 --eval-interval 20
  --eval-tokens 4096 --checkpoint-interval 20 --warmup-steps 5)
short=("${options[@]}" --max-steps 40)

run 1 one "${short[@]}" --out "$place/one" &&
  run 2 two "${short[@]}" --out "$place/two" && run 2 again "${short[@]}" --out "$place/again"
result 'runs of one rank and of two' $?
node - "$place" <<'JS'
const { readFileSync } = require('node:fs')
const losses = name =>
  readFileSync(`${process.argv[2]}/${name}/log.jsonl`, 'utf8')
    .trim()
    .split('\n')
    .map(line => JSON.parse(line))
    .map(({ loss, valLoss }) => loss ?? valLoss)
const [one, two] = ['one', 'two'].map(losses)
const largest = Math.max(...one.map((loss, at) => Math.abs(loss - two[at])))
console.log(`${one.length} losses of one rank and of two: at most ${largest} apart`)
process.exit(one.length === 42 && one.length === two.length && largest < 1e-4 ? 0 : 1)
JS
result 'two ranks learn what one does' $?
cmp "$place/two/model.bin" "$place/again/model.bin"
result 'two ranks make the same bytes again' $?

run 3 refused "${short[@]}" --out "$place/refused"
[ $? != 0 ] && grep -q 'must be a multiple of 3' "$place/refused.log" && [ ! -e "$place/refused" ]
result 'a batch that does not divide is refused' $?

# A rank dies in the middle: mpirun ends the others, and one rank alone goes on.
run 2 killed "${options[@]}" --out "$place/killed" --max-steps 100000 &
for _ in $(seq 300); do
  [ -e "$place/killed/checkpoint-20" ] && break
  sleep 0.2
done
pkill -KILL --newest --full "$place/killed --max-steps 100000"
wait $!
code=$?
[ $code != 0 ] && [ $code != 124 ] && grep -q 'on signal 9' "$place/killed.log"
result 'a killed rank ends all' $?
step=$(ls -d "$place"/killed/checkpoint-* | sed 's/.*-//' | sort -n | tail -n 1)
run 1 resumed --resume "$place/killed" --max-steps $((step + 20)) && grep -q "going on after step $step" "$place/resumed.log"
result 'another number of ranks goes on' $?

# mpirun passes this signal on, and the ranks end together.
run 2 ended "${options[@]}" --out "$place/ended" --max-steps 100000 --json &
for _ in $(seq 300); do
  [ -e "$place/ended/checkpoint-20" ] && break
  sleep 0.2
done
pkill -USR1 --full "^mpirun .* $place/ended "
wait $!
step=$(sed -n 's/^{"event":"interrupted","steps":\([0-9]*\),.*/\1/p' "$place/ended.log")
[ -n "$step" ] && [ "$(ls -d "$place"/ended/checkpoint-* | sed 's/.*-//' | sort -n | tail -n 1)" = "$step" ]
result 'ranks that are told to end save what they have' $?

run 2 diloco "${short[@]}" --out "$place/diloco" --local-steps 10 --sum-precision bf16
result 'ranks take steps by themselves' $?
exit $status
