"""The guest "devices" of the golden snapshots: the host's ends of its devices, made the same wherever and whenever a
snapshot of it is made or restored, and what it must still know."""
import re
import struct

from vmmd import eventually

MASK = (1 << 64) - 1
SECTORS = 64
PMEM = 2 << 20


def words(seed, place, count):
    """What tests/guest/bare/devices.c writes there."""
    values = [((seed << 32 ^ place << 12 ^ i) * 0x9E3779B97F4A7C15) & MASK for i in range(count)]
    return struct.pack(f"<{count}Q", *(value ^ value >> 29 for value in values))


def make_backings(folder):
    """The files below the disk's overlay and the persistent memory."""
    (folder / "disk.img").write_bytes(b"".join(words(1, sector, 64) for sector in range(SECTORS)))
    with open(folder / "pmem.img", "wb") as pmem:
        for page in range(4):
            pmem.write(words(1, page, 512))
        pmem.truncate(PMEM)


def config(folder):
    """Fields beside the default ones, where there is a choice."""
    return {
        "disks": [{"id": "disk", "path": str(folder / "disk.img"), "overlay": "memory", "overlay_limit": 1 << 20,
                   "serial": "golden", "num_queues": 2, "queue_size": 64,
                   "rate_limiter_config": {"ops": {"size": 1000, "refill_time": 100}}}],
        "pmem": [{"id": "pmem", "file": str(folder / "pmem.img"), "size": PMEM, "discard_writes": True}],
        "console": {"mode": "File", "file": str(folder / "console.txt")},
        "rng": {"src": "/dev/urandom"},
        "vsock": {"id": "vsock", "cid": 4242, "socket": str(folder / "vsock")},
        "balloon": {"size": 1 << 20, "deflate_on_oom": True, "free_page_reporting": True},
        "watchdog": True,
        "platform": {"pc": True},
    }


def overrides(folder):
    """Where these are on this host."""
    return {
        "disks": [{"id": "disk", "path": str(folder / "disk.img")}],
        "pmem": [{"id": "pmem", "file": str(folder / "pmem.img")}],
        "console": {"file": str(folder / "console.txt")},
        "vsock": {"socket": str(folder / "vsock")},
    }


def use(serial):
    """Before the snapshot: everything has state that is not a cold device's."""
    for line in ("w 5 3", "w 6 4", "w 7 60", "W 5 1", "W 6 300"):
        serial.ask(line, r"^wrote$")
    serial.ask("r", r"^random \w+ \w+$")
    serial.ask("o before", r"^said$")
    serial.ask("b", r"^given 1$")
    serial.ask("b", r"^given 2$")
    serial.ask("v", r"^cid 4242 events 0$")


def goes_on(serial, folder):
    """After the restore: what was written is there, what was not is the base's, and every queue still works."""
    for line in ("c 1 2", "c 5 3", "c 6 4", "c 1 5", "c 7 60", "c 1 63", "C 1 0", "C 5 1", "C 1 2", "C 6 300"):
        serial.ask(line, r"^good$")
    for line in ("w 8 3", "W 8 1"):
        serial.ask(line, r"^wrote$")
    for line in ("c 8 3", "C 8 1"):
        serial.ask(line, r"^good$")
    drawn = serial.ask("r", r"^random (\w+) (\w+)$")
    assert drawn[1] != drawn[2]
    serial.ask("o after", r"^said$")
    eventually(lambda: (folder / "console.txt").read_text() == "after\n")
    serial.ask("b", r"^given 3$")
    # Streams end with a restore, and the driver is told so.
    eventually(lambda: serial.ask("v", r"^cid 4242 events (\d)$")[1] == "1")
    pings = int(serial.ask("p", r"^pings (\d+)$")[1])
    assert pings >= 1
    eventually(lambda: int(serial.ask("p", r"^pings (\d+)$")[1]) > pings)
    assert re.fullmatch("pic ff bd elcr c20 cmos 5a", serial.ask("k", r"^(pic .*?)\r?$")[1])
