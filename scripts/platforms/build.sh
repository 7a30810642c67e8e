#!/usr/bin/env bash
# Builds the binding and librwkv for the platforms named, or for all eight, into .cache/platforms/NAME/, and
# checks their headers. One line for each: seconds, and the size of what is packed. Debian 12 on x86-64.
#
#     scripts/platforms/build.sh [NAME...]
set -euo pipefail
cd "$(dirname "$0")/../.."
bash scripts/platforms/install.sh
. scripts/platforms/environment.sh
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/.cache/platforms/target}

names=("$@")
[ $# != 0 ] || mapfile -t names < <(python3 -c 'import json; print(*json.load(open("scripts/platforms/table.json")), sep="\n")')
status=0
for name in "${names[@]}"; do
  rust=$(row "$name" rust) out=.cache/platforms/$name
  triple=${rust%.2.17} flags=
  # Rust's musl is static unless told otherwise, and a static program loads no binding.
  case $name in
    *musl) flags=-Ctarget-feature=-crt-static ;;
    darwin-*) flags=-Clink-arg=-F$tools/frameworks ;;
  esac
  mkdir -p "$out"
  rm -f "$out"/*
  start=$SECONDS
  if ! RUSTFLAGS=$flags nice cargo-zigbuild zigbuild --locked --release -p rwkv-node -p rwkv-capi \
    -Zbuild-std=std,panic_abort --target "$rust" > "$out/build.log" 2>&1; then
    tail -n 20 "$out/build.log" >&2
    echo "$name: the build failed; all of it is in $out/build.log" >&2
    status=1
    continue
  fi
  built=$CARGO_TARGET_DIR/$triple/release
  case $name in
    win32-*)
      cp "$built/rwkv_node.dll" "$out/rwkv.$name.node"
      cp "$built/rwkv.dll" "$built/librwkv.dll.a" "$built/librwkv.a" "$out"
      library=$out/rwkv.dll
      ;;
    darwin-*)
      cp "$built/librwkv_node.dylib" "$out/rwkv.$name.node"
      cp "$built/librwkv.dylib" "$out/librwkv.0.dylib"
      cp "$built/librwkv.a" "$out"
      ln -sf librwkv.0.dylib "$out/librwkv.dylib"
      library=$out/librwkv.0.dylib
      ;;
    *)
      cp "$built/librwkv_node.so" "$out/rwkv.$name.node"
      cp "$built/librwkv.so" "$out/librwkv.so.0"
      cp "$built/librwkv.a" "$out"
      ln -sf librwkv.so.0 "$out/librwkv.so"
      library=$out/librwkv.so.0
      ;;
  esac
  seconds=$((SECONDS - start))
  packed=$(tar -C "$out" -czf - "rwkv.$name.node" | wc -c)
  echo "$name: $seconds s, binding $(stat -c %s "$out/rwkv.$name.node") bytes, $packed packed," \
    "librwkv $(stat -c %s "$library")"
  python3 scripts/platforms/check.py "$out/rwkv.$name.node" "$library" || status=1
done
exit "$status"
