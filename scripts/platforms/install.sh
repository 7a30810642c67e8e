#!/usr/bin/env bash
# Installs what build.sh needs and is missing here. For Debian 12 on x86-64; needs root, or sudo without a
# password.
set -euo pipefail

# Rust "for web browsers": the only Rust in Debian 12 that is new enough, and the only one whose standard
# library comes as source of that very version. rustup's own would do where rust-src can be added to it.
packages=(rustc-web cargo-web rust-web-src libstd-rust-web-dev:amd64 llvm binutils)
wheels=(ziglang==0.17.1 cargo-zigbuild==0.24.1 lief==1.0.0)

if [ "$(uname -sm)" != 'Linux x86_64' ] || ! grep -qs '^VERSION_CODENAME=bookworm$' /etc/os-release; then
  echo 'platforms: this is for Debian 12 on x86-64; install Rust with its source, zig and cargo-zigbuild by hand' >&2
  exit 1
fi
python3 -m pip --version > /dev/null 2>&1 || packages+=(python3-pip)
missing=()
for package in "${packages[@]}" "$@"; do
  [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>&1)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} != 0 ]; then
  echo "platforms: installing ${missing[*]}" >&2
  root=$([ "$(id -u)" = 0 ] || echo sudo -n)
  apt="$root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -qq -y"
  case "${missing[*]}" in *:arm64*) $root dpkg --add-architecture arm64 ;; esac
  $apt update > /dev/null || true # a source that has nothing to do with us may be out of order
  $apt install --no-install-recommends "${missing[@]}" > /dev/null
fi
# In a directory of their own, so that neither the system's Python nor a user's is changed.
cd "$(dirname "$0")/../.."
tools=.cache/platforms/tools
if [ "$(cat "$tools/versions" 2> /dev/null)" != "${wheels[*]}" ]; then
  echo "platforms: installing ${wheels[*]}" >&2
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --upgrade --target "$tools" "${wheels[@]}"
  echo "${wheels[*]}" > "$tools/versions"
fi
