#!/usr/bin/env bash
# The cheap part of scripts/platforms: the check of headers tests itself; the code for Windows compiles; and the binding
# and librwkv for linux-x64 are built against glibc 2.17 and checked. Debian 12 has all that it takes, and what is missing
# is installed. Elsewhere this says so and does nothing. All eight platforms: scripts/platforms/build.sh and run.mjs.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(uname -sm)" != 'Linux x86_64' ] || ! grep -qs '^VERSION_CODENAME=bookworm$' /etc/os-release; then
  echo 'platforms: not tried here: this is for Debian 12 on x86-64' >&2
  exit 0
fi
bash scripts/platforms/install.sh
. scripts/platforms/environment.sh
python3 scripts/platforms/check_test.py

# Headers and symbols are the same without optimization.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/platforms CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=false
plain=(--config 'profile.dev.package."*".opt-level=0')
cargo-zigbuild zigbuild "${plain[@]}" --quiet --locked --no-default-features -p rwkv-node -p rwkv-capi --target x86_64-unknown-linux-gnu.2.17
built=$CARGO_TARGET_DIR/x86_64-unknown-linux-gnu/debug
python3 scripts/platforms/check.py --platform linux-x64-gnu "$built/librwkv_node.so" "$built/librwkv.so"

# For Microsoft's linker, zstd and ring would take Microsoft's C compiler; zig builds them for LLVM's. The standard
# library comes from source: Debian has none for Windows.
windows=x86_64-pc-windows-gnullvm
cargo-zigbuild check --quiet --locked --no-default-features -Zbuild-std=std,panic_abort --target $windows -p rwkv-node -p rwkv-capi
echo "platforms: $windows compiles"
