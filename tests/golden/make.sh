#!/usr/bin/env bash
# Makes the golden snapshots of this build: tests/golden/make.sh [BUILD]   (default: build/)
#
# Once per release whose format or units differ from the last one's; what is there already is never made again, since
# every later version must go on reading it (tests/e2e/test_golden.py). Each is the directory of one small guest as a
# tar.xz (sparse, with the id attribute), named VERSION-GUEST, at most 200 KiB:
#   tick     counts and prints, on a periodic LAPIC timer
#   pattern  2.1 MiB of RAM, what is left of it filled with the pattern of seed 7
#   smp      two CPUs, each counting in its own word
#   cruncher registers only: general, SSE and x87, in the middle of arithmetic
#   devices  a PC with every virtio device that needs no rights, all in use; the files below its disk's overlay and its
#            persistent memory are made again by tests/e2e/golden_devices.py where it is restored
# The CPU they were made on is in their manifests; it may be any.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export VMMD_BUILD=${1:-$here/../../build}
work=$(mktemp -d /tmp/vmmd-golden.XXXXXX) # its name stands in config.json
trap 'rm -rf "$work"' EXIT
PYTHONPATH=$here/../e2e /usr/bin/python3 - "$work" <<'PYTHON'
import pathlib, shutil, sys
import golden_devices, vmmd
work = pathlib.Path(sys.argv[1])
GUESTS = {
    "tick": ("", 1, 16 << 20, [], r"^tick 10$"),
    "pattern": ("", 1, (2 << 20) + (96 << 10), ["w 7"], r"^ok "),
    "smp": ("cpus=2", 2, 16 << 20, [], r"^cpus 2$"),
    "cruncher": ("", 1, 16 << 20, [], r"^hash 1 "),
}
for name, (cmdline, cpus, memory, lines, ready) in GUESTS.items():
    shutil.copy(vmmd.bare(name), work / f"{name}.elf")
    daemon = vmmd.Daemon(work / name)
    serial = daemon.boot(work / f"{name}.elf", cmdline, cpus=cpus, memory=memory)
    for line in lines:
        serial.send(line)
    serial.expect(ready)
    daemon.put("vm.pause")
    version = daemon.get("vmm.ping")["version"].lstrip("v")
    daemon.snapshot(work / f"{version}-{name}", labels={"golden": name})
    daemon.kill()

golden_devices.make_backings(work)
shutil.copy(vmmd.bare("devices"), work / "devices.elf")
daemon = vmmd.Daemon(work / "devices")
serial = daemon.boot(work / "devices.elf", memory=16 << 20, **golden_devices.config(work))
serial.expect(r"^devices ready$")
golden_devices.use(serial)
daemon.put("vm.pause")
version = daemon.get("vmm.ping")["version"].lstrip("v")
daemon.snapshot(work / f"{version}-devices", labels={"golden": "devices"})
daemon.kill()
PYTHON
for snapshot in "$work"/*-*/; do
  name=$(basename "$snapshot")
  if [ -e "$here/$name.tar.xz" ]; then
    echo "$name: is there already, kept"
    continue
  fi
  tar --create --sparse --xattrs --format=posix --owner=root:0 --group=root:0 --directory="$work" "$name" | xz -9e >"$here/$name.tar.xz"
  size=$(stat -c %s "$here/$name.tar.xz")
  echo "$name: $size bytes"
  [ "$size" -le 204800 ] || { echo "$name is larger than 200 KiB" >&2; exit 1; }
done
