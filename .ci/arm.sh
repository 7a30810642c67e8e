#!/usr/bin/env bash
# What an x86-64 machine can say about ARM: the NEON tiers against scalar under qemu, whether the binding and
# librwkv for linux-arm64 can be built and export what they should, and whether Node trains with them. Debian 12
# has all that it takes, and what is missing is installed. Elsewhere this says so and does nothing: on an ARM
# machine `npm test` runs the NEON tiers as they are.
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
# Rust for web browsers, in Debian's words: the only Rust of Debian 12 that is new enough. It stands beside a
# rustup.
packages=(
  rustc-web cargo-web libstd-rust-web-dev:arm64
  gcc-aarch64-linux-gnu libc6-dev-arm64-cross libc6:arm64 libstdc++6:arm64 qemu-user-static
)

say() { echo "ARM: $*" >&2; }

missing() {
  for package in "${packages[@]}"; do
    [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>&1)" = installed ] || echo "$package"
  done
}

install_missing() {
  local sudo=() log=.cache/arm-apt.log
  [ "$(id -u)" = 0 ] || sudo=(sudo -n)
  local apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -qq -y)
  say "installing $(missing | paste -sd ' ')"
  {
    "${sudo[@]}" dpkg --add-architecture arm64
    "${apt[@]}" update || true # a source that has nothing to do with us may be out of order
    "${apt[@]}" install --no-install-recommends "${packages[@]}" ||
      { "${apt[@]}" --fix-broken install && "${apt[@]}" install --no-install-recommends "${packages[@]}"; }
  } >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    say 'that failed. By hand, as root: dpkg --add-architecture arm64; apt-get update;' \
      "apt-get install ${packages[*]}"
    exit 1
  }
}

if [ "$(uname -sm)" != 'Linux x86_64' ] || ! grep -qs '^VERSION_CODENAME=bookworm$' /etc/os-release; then
  say 'not tested here: this is for Debian 12 on x86-64'
  exit 0
fi
mkdir -p .cache
[ -z "$(missing)" ] || install_missing

# With its own target directory: the compiler is another than that of the other tests.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/arm" CARGO_BUILD_TARGET=$target
export RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
# The arm64 C library is installed, so qemu needs no -L: with the cross compiler's as well, programs would get
# the loader of one and the library of the other, and hang when they start a thread.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64-static
# Dependencies without optimization: they compile in half the time, and nothing here is fast anyway.
cargo=(/usr/bin/cargo --config 'profile.dev.package."*".opt-level=0')

# Compiled with less care, these take two thirds of the time, and none of them does what takes long here.
for package in text session train node capi; do
  cargo+=(--config "profile.dev.package.rwkv-$package.opt-level=1")
done
binding=(--no-default-features --package rwkv-node --package rwkv-capi)
"${cargo[@]}" build --locked "${binding[@]}"

# Emulated, one test of frozen weights takes minutes; the one beside it asks the same tiles for the same bits.
"${cargo[@]}" test --locked --no-fail-fast --package rwkv-kernels --lib \
  -- --skip frozen::tests::products_are_those_of_the_decoded_weights
# Emulated, the same bits for every length and number of threads take minutes for larger models, and so do long prompts
# in every format; neither runs other code than what is left and the kernels' tests.
# All packages of the binding are named, so that what was compiled for it, with the features that they ask of others,
# serves here again.
"${cargo[@]}" test --locked --no-fail-fast "${binding[@]}" --package rwkv-core --test reference \
  -- --skip for_published_models --skip for_a_model_of_usual_widths --skip for_rwkv_7 \
  --skip logits_and_state_after_a_long_prompt

# A shared object for AArch64 that exports each of the functions named.
check() {
  local file=$1 header symbols
  shift
  header=$(aarch64-linux-gnu-readelf --wide --file-header "$file")
  grep -q 'Type: *DYN' <<<"$header" && grep -q 'Machine: *AArch64' <<<"$header" ||
    { say "$file is no shared object for AArch64"; exit 1; }
  symbols=$(aarch64-linux-gnu-readelf --wide --dyn-syms "$file" | awk '$4 == "FUNC" && $7 != "UND" { print $8 }')
  for name in "$@"; do
    grep -qx "$name" <<<"$symbols" || { say "$file does not export $name"; exit 1; }
  done
  say "$file exports $*"
}

built="$CARGO_TARGET_DIR/$target/debug"
check "$built/librwkv_node.so" napi_register_module_v1
mapfile -t functions < <(grep -oE '\brwkv_[a-z_]+\(' crates/capi/include/rwkv.h | tr -d '(' | sort -u)
check "$built/librwkv.so" "${functions[@]}"

# A real Node for ARM trains with that binding and writes, where there is the JavaScript to go with it (npm test
# makes that).
if [ -e dist/index.js ]; then
  mkdir -p .cache/platforms/linux-arm64-gnu
  cp "$built/librwkv_node.so" .cache/platforms/linux-arm64-gnu/rwkv.linux-arm64-gnu.node
  node scripts/platforms/run.mjs linux-arm64-gnu
else
  say 'not tried with Node: dist/ is not built'
fi
