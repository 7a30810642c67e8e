# Sourced by what cross-builds, in the root of the repository: zig as the linker for every system.

tools=$PWD/.cache/platforms/tools
mkdir -p "$tools/bin" "$tools/libnode"
export PYTHONPATH=$tools${PYTHONPATH:+:$PYTHONPATH}
# Cargo strips Apple's binaries with this name.
ln -sf /usr/bin/llvm-objcopy "$tools/bin/rust-objcopy"
# A rustup may come first on the path: its Rust has not the source of its library.
ln -sf /usr/bin/cargo /usr/bin/rustc /usr/bin/rustdoc "$tools/bin/"
export PATH=$tools/bin:$PATH
export RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc CARGO=/usr/bin/cargo
# Debian's Rust is a stable one. This lets it build the standard library for systems it brings none for.
export RUSTC_BOOTSTRAP=1
export MACOSX_DEPLOYMENT_TARGET=11.0
# Node's functions are looked up when the binding is loaded, by whichever node.exe that is. napi-build asks for a
# library all the same: an empty one.
for file in libnode.a libnode.dll.a; do printf '!<arch>\n' > "$tools/libnode/$file"; done
: > "$tools/libnode/libnode.dll"
export LIBNODE_PATH=$tools/libnode
# rustc asks the linker for every framework that a crate names, and zig has none of Apple's. This one is named by
# chrono, for the local time zone, and these are the functions for it.
mkdir -p "$tools/frameworks/CoreFoundation.framework"
cat > "$tools/frameworks/CoreFoundation.framework/CoreFoundation.tbd" <<'TBD'
--- !tapi-tbd
tbd-version: 4
targets: [ x86_64-macos, arm64-macos ]
install-name: '/System/Library/Frameworks/CoreFoundation.framework/Versions/A/CoreFoundation'
compatibility-version: 150
exports:
  - targets: [ x86_64-macos, arm64-macos ]
    symbols: [ _CFRelease, _CFStringGetBytes, _CFStringGetCStringPtr, _CFStringGetLength, _CFTimeZoneCopySystem,
               _CFTimeZoneGetName, _CFTimeZoneResetSystem ]
...
TBD
# As small as they are published.
export CARGO_PROFILE_RELEASE_STRIP=symbols CARGO_PROFILE_RELEASE_DEBUG=false

# What table.json says: row NAME KEY.
row() {
  python3 -c 'import json, sys; print(json.load(open("scripts/platforms/table.json"))[sys.argv[1]].get(sys.argv[2], ""))' "$@"
}
