"""The Linux guest: how it is booted, and how a snapshot of it at its agent's prompt is made once for many tests."""
import dataclasses
import functools
import pathlib
import struct

import vmmd

# RAM kept from Linux for the agent's `phys` command, which reaches it at native speed: (MiB, length in MiB).
RESERVED = (96, 16)


# How long Debian's own kernel may take to come up. VT-x and SVM need a second or two; where ring 0 is emulated it
# never does.
STOCK_SECONDS = 30


@dataclasses.dataclass
class Linux:
    kernel: pathlib.Path
    initramfs: pathlib.Path
    stock: bool = False  # Debian's own: no evdev for the power button, no /dev/mem for `phys`

    def cmdline(self, memory, more=""):
        at, length = RESERVED
        words = ["console=ttyS0 slowring0 quiet", f"memmap={length}M${at}M"]
        if not self.stock:
            # The clock may jump at a restore, and a loaded host lets a vCPU wait. Linux would take it for a stall and
            # ask for backtraces by NMI, whose entry (LSL) KVM cannot emulate on every host: it would die of that.
            words.append("rcupdate.rcu_cpu_stall_suppress=1")
        if memory > 3 << 30:
            # Every struct page costs: of big guests Linux sees 112 MiB below the hole and 16 MiB above it, and the
            # rest is for `phys`. Above 4 GiB it would also set aside bounce buffers.
            low = at + length
            words += [f"memmap={3072 - low}M${low}M", f"memmap={(memory >> 20) - 3072 - 16}M${4096 + 16}M",
                      "swiotlb=noforce"]
        return " ".join([*words, more]).strip()

    def boot(self, daemon, cpus=1, memory=128 << 20, more="tick=200", **config):
        """Boots to the agent's prompt; returns the serial line."""
        payload = {"kernel": str(self.kernel), "cmdline": self.cmdline(memory, more), "initramfs": str(self.initramfs)}
        serial = daemon.boot(self.kernel, memory=memory, cpus=cpus, payload=payload, **config)
        serial.expect(r"^INIT UP ([0-9.]+)$", timeout=240)
        serial.expect(r"^AGENT READY$")
        return serial

    def boot_and_snapshot(self, folder, cpus, memory):
        with vmmd.leaving_snapshot(folder) as daemon:
            self.boot(daemon, cpus, memory).expect(r"^tick \d+$")
        return folder / "snapshot"

    def why_not(self, folder):
        """None if this kernel boots here, else the reason; found out by trying."""
        daemon = vmmd.Daemon(folder)
        try:
            payload = {"kernel": str(self.kernel), "initramfs": str(self.initramfs),
                       "cmdline": "console=ttyS0 earlyprintk=ttyS0 panic=-1"}
            serial = daemon.boot(self.kernel, memory=256 << 20, payload=payload)
            serial.expect(r"^INIT UP ", timeout=STOCK_SECONDS)
            return None
        except AssertionError:
            state = "still running" if daemon.process.poll() is None else "gone"
            words = serial.text.strip().splitlines()[-1:] or ["nothing"]
            return f"Debian's stock kernel did not boot within {STOCK_SECONDS} s (vmmd {state}; it last said: {words[0]})"
        finally:
            daemon.kill()


def pattern(seed, size):
    """The words that the agent's fill_pattern() writes."""
    words = []
    for offset in range(0, size, 8):
        x = (offset ^ seed << 40 ^ seed) * 0x9E3779B97F4A7C15 & 2**64 - 1
        words.append(x ^ x >> 29)
    return struct.pack(f"<{len(words)}Q", *words)


@functools.lru_cache(4096)
def record(number, seed, size):
    """The record that the agent's fill_record() makes."""
    mask = 2**64 - 1
    base = number * 0x9E3779B97F4A7C15 & mask ^ seed << 32
    words, total = [number, seed], 0
    for index in range(2, size // 8 - 1):
        x = base ^ index * 0xC2B2AE3D27D4EB4F & mask
        words.append(x ^ x >> 31)
    for word in words:
        total = (total << 7 & mask | total >> 57) ^ word
    return struct.pack(f"<{size // 8}Q", *words, total)
