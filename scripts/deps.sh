#!/usr/bin/env bash
# Installs with apt what is missing and says what: `deps.sh quickstart` for building and showing vmmd, `deps.sh` for
# all of the tests too. Asks nothing; needs root or sudo only when something is missing.
set -euo pipefail

build=(ccache cmake curl g++ git jq libboost1.81-dev libcli11-dev libedit-dev libexpected-dev libfmt-dev liburing-dev
  libprotobuf-dev libseccomp-dev libspdlog-dev libxxhash-dev libzstd-dev meson ninja-build nlohmann-json3-dev
  pkg-config protobuf-compiler)
# The build includes unit tests and bare-metal guests; the Linux guest is built from Debian's source.
guest=(acpica-tools bc bison cpio doctest-dev flex gcc iproute2 iputils-ping libc6-dev libelf-dev libssl-dev
  linux-source-6.1 lz4 make patch xz-utils)
test=(clang-19 clang-format-19 clang-tidy-19 e2fsprogs libbenchmark-dev libclang-rt-19-dev passt python3
  python3-jsonschema python3-protobuf python3-pytest python3-pytest-rerunfailures python3-xxhash python3-yaml strace
  xfsprogs)

packages=("${build[@]}" "${guest[@]}")
[ "${1:-}" = quickstart ] || packages+=("${test[@]}")

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "deps: this is not Debian or Ubuntu; install by hand: ${missing[*]}" >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "deps: neither root nor sudo; let root run: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "deps: installing ${#missing[@]} packages: ${missing[*]}"
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get)
"${install[@]}" update -qq </dev/null || true # an old list may do; install says so when it does not
"${install[@]}" install -y -qq --no-install-recommends "${missing[@]}" </dev/null >/dev/null ||
  { echo "deps: apt-get could not install them all; run it by hand to see why" >&2; exit 1; }
