#!/usr/bin/env bash
# Builds the Linux guest of the tests from Debian's linux-source-6.1 into
#   ${XDG_CACHE_HOME:-$HOME/.cache}/vmmd/linux-<digest of its inputs>/{vmlinux,bzImage,initramfs.cpio}
# and prints that folder as the last line. Does nothing when it is there already; several at once wait for one another.
#   build.sh          build what is missing
#   build.sh --path   only print the folder (exit 1 when it is not built yet)
set -euo pipefail
export LC_ALL=C
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/vmmd
tarball=/usr/src/linux-source-6.1.tar.xz

say() { printf 'linux guest: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

package=$(dpkg-query -W -f '${Version}' linux-source-6.1 2>/dev/null || true)
[ -n "$package" ] && [ -f "$tarball" ] ||
  die "Debian's package linux-source-6.1 is not installed: run scripts/deps.sh"

digest() { sha256sum | cut -c1-16; }
# The kernel costs minutes and the agent a second, so a change of the agent does not rebuild the kernel.
kernel_digest=$({ echo "$package"; gcc -dumpfullversion
  grep -v '^#' "$here/linux-6.1.config"; cat "$here/linux-6.1.patch"; } | digest)
guest_digest=$({ echo "$kernel_digest"; cat "$here"/agent/*; } | digest)
kernel=$cache/kernel-$kernel_digest
guest=$cache/linux-$guest_digest

if [ "${1:-}" = --path ]; then
  echo "$guest"
  [ -f "$guest/initramfs.cpio" ]
  exit
fi

# Some minutes of silence look like a hang.
progress() {
  awk '/^  [A-Z]+ / { if (++n % 200 == 0) { printf "linux guest: %d steps of about 1500\n", n; fflush() } next }
       { print; fflush() }' >&2
}

build_kernel() {
  local work=$cache/build-$kernel_digest src line
  rm -rf "$work"
  mkdir -p "$work"
  say "unpacking linux-source-6.1 $package"
  # The headers of one graphics driver are a quarter of the tree.
  tar -C "$work" --exclude='*/drivers/gpu/drm/amd/include/*' -xf "$tarball"
  src=$work/linux-source-6.1
  patch -d "$src" -p1 --quiet <"$here/linux-6.1.patch"
  local make=(make -C "$src" -j"$(nproc)" KBUILD_BUILD_USER=vmmd KBUILD_BUILD_HOST=vmmd
    KBUILD_BUILD_VERSION=1 "KBUILD_BUILD_TIMESTAMP=$package")
  if command -v ccache >/dev/null; then make+=(CC="ccache gcc" HOSTCC="ccache gcc"); fi
  "${make[@]}" -s tinyconfig >/dev/null 2>&1
  cat "$here/linux-6.1.config" >>"$src/.config"
  "${make[@]}" -s olddefconfig >/dev/null 2>&1
  # kconfig silently drops what depends on something that is not there.
  while read -r line; do
    grep -qx "$line" "$src/.config" || die "linux-6.1.config: \"$line\" did not survive; what does it depend on?"
  done < <(grep '=[^n]' "$here/linux-6.1.config")
  say "compiling (3 to 8 minutes)"
  "${make[@]}" vmlinux bzImage 2>&1 | progress
  mkdir -p "$kernel.new"
  objcopy --strip-all "$src/vmlinux" "$kernel.new/vmlinux"
  cp "$src/arch/x86/boot/bzImage" "$kernel.new/bzImage"
  cp "$src/.config" "$kernel.new/config"
  mv -T "$kernel.new" "$kernel"
  rm -rf "$work"
}

build_guest() {
  rm -rf "$guest"
  mkdir -p "$guest"
  ln "$kernel/vmlinux" "$kernel/bzImage" "$guest/"
  "$here/agent/build.sh" "$guest/initramfs.cpio"
}

mkdir -p "$cache"
exec 9>"$cache/lock"
flock -n 9 || { say "another build runs; waiting for it"; flock 9; }
start=$SECONDS
if [ ! -f "$kernel/bzImage" ]; then build_kernel; fi
if [ ! -f "$guest/initramfs.cpio" ]; then build_guest; fi
say "ready in $((SECONDS - start)) s"
echo "$guest"
