#!/usr/bin/env bash
# Fetches Debian's stock cloud kernel (signed image package, unpacked, not installed) into
#   ${XDG_CACHE_HOME:-$HOME/.cache}/vmmd/stock-<version>/vmlinuz
# and prints that path. Exit 1 with the reason on stderr when it cannot be had. Whether this host's KVM can boot it is
# for the caller to try.
set -euo pipefail
cache=${XDG_CACHE_HOME:-$HOME/.cache}/vmmd
say() { printf 'stock kernel: %s\n' "$*" >&2; }

# linux-image-cloud-amd64 depends on the current linux-image-6.1.0-NN-cloud-amd64.
package=$(apt-cache depends --important linux-image-cloud-amd64 2>/dev/null |
  sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
[ -n "$package" ] || { say "apt knows no linux-image-cloud-amd64 (apt-get update?)"; exit 1; }
target=$cache/stock-${package#linux-image-}
if [ ! -f "$target/vmlinuz" ]; then
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/stock.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  say "downloading $package"
  # apt drops to its own user, which may not write here; as root that is only a warning.
  (cd "$work" && apt-get download -qq "$package" >/dev/null 2>&1) || { say "cannot download $package"; exit 1; }
  dpkg -x "$work"/*.deb "$work/root"
  mkdir -p "$target"
  cp "$work"/root/boot/vmlinuz-* "$target/vmlinuz.new"
  mv "$target/vmlinuz.new" "$target/vmlinuz"
fi
echo "$target/vmlinuz"
