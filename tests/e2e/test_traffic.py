"""Ten generations of a guest that writes to two disks and sends and receives from ring 3, at native speed and as deep as
its rings take (tests/guest/bare/traffic.c), each cut off in full traffic. Of its numbered, checksummed records none may be
lost, torn or there twice: on the disks, on the wire, in the guest; in the line of generations as in clones that leave it."""
import contextlib
import shutil
import struct
import time

import pytest

import traffic
import vmmd
from linux import record

pytestmark = pytest.mark.guest

GENERATIONS, FORKS = 10, (3, 7)
LANES, SLOTS = 16, 32
SENT, TAKEN = 1024, 128  # bytes of a record: the guest's, the host's
SEED_SENT, SEED_TAKEN = 1, 2
SEED_OF_DISK = {"a": 100, "b": 200}
ETHERTYPE = struct.pack("!H", 0x88B5)
IN_FLIGHT = 8  # of the host's records
AGAIN = 0.05  # s without an answer
# Less than the guest would do, so that its rings stay full; disk b is not limited.
SLOW_DISK, SLOW_NET = {"ops": {"size": 50, "refill_time": 100}}, {"ops": {"size": 40, "refill_time": 100}}


def record_of(frame):
    return frame[22:22 + SENT] if frame[12:14] == ETHERTYPE else None


class Peer:
    """The host's end: tells the guest what has come, and sends records, again and again until the guest has them."""

    def __init__(self, wire, first=0, taken=0):
        self.wire = wire
        self.told = first  # of the guest's
        self.taken = self.sent = taken
        self.most = 0
        self.enough = False
        self.last = 0

    def note(self, frame):
        found = record_of(frame)
        if found:
            self.taken = max(self.taken, int.from_bytes(frame[14:22], "little"))
        return found

    def send(self, number):
        body = struct.pack("<QQ", self.wire.next, self.enough) + record(number, SEED_TAKEN, TAKEN)
        with contextlib.suppress(OSError):  # between two vmmds nobody takes it
            self.wire.sniffer.send(bytes(range(2, 14)) + ETHERTYPE + body)
        self.most = max(self.most, number + 1)

    def move(self):
        silent = time.monotonic() - self.last > AGAIN
        if silent:
            self.sent = self.taken
        if not silent and self.told == self.wire.next:
            return
        self.sent = max(self.sent, self.taken)
        self.send(self.sent if self.sent < self.taken + IN_FLIGHT else self.taken)
        self.sent = min(self.sent + 1, self.taken + IN_FLIGHT)
        self.told, self.last = self.wire.next, time.monotonic()


def connect(stack, first=0, taken=0):
    wire = traffic.Wire(stack, SEED_SENT, SENT, None, first)
    peer = Peer(wire, first, taken)
    wire.record_of = peer.note
    return wire, peer


def newest(path):
    return traffic.newest(path, LANES, SLOTS, SEED_OF_DISK["b"])


def end_and_check(daemon, serial, wire, peer, image):
    """The guest comes to an end and tells how far it was: so far are wire and disks, and no further."""
    peer.enough = True
    said = []

    def has_stopped():
        with contextlib.suppress(AssertionError):
            said.append(serial.expect(r"^stopped sent (\d+) taken (\d+) bad 0$", timeout=0))
        return said

    traffic.move_until(has_stopped, wire, peer)
    sent, taken = map(int, said[0].groups())
    assert wire.next == sent and peer.taken <= taken <= peer.most
    lanes = dict.fromkeys((0, 1), ())
    for line in serial.text.splitlines():
        if line.startswith("disk "):
            disk, number = int(line.split()[1]), int(line.split()[5])
            lanes[disk] += (number - 1,)
    for disk in lanes:
        checked = sum(min(last + 1, SLOTS) for last in lanes[disk])
        serial.ask(f"check {disk}", f"^checked {checked} bad 0$")
    daemon.put("vm.pause")
    assert newest(image) == list(lanes[1])


def fork(start, name, snapshot, image, line):
    """A clone in a network of its own goes on from where its parent was, and ends well."""
    copy = shutil.copy(image, snapshot.parent / f"{name}.img")
    with contextlib.ExitStack() as stack:
        wire, peer = connect(stack, line.wire.next, line.taken)
        peer.most = line.most
        clone = start(name=name)
        serial = clone.restore(snapshot, overrides={"disks": [{"id": "b", "path": str(copy)}]})
        first = wire.next
        traffic.move_until(lambda: wire.next >= first + 100, wire, peer)
        end_and_check(clone, serial, wire, peer, copy)
        clone.kill()


def test_ten_generations_cut_off_in_full_traffic_lose_tear_and_repeat_nothing(start, tmp_path):
    images = {disk: tmp_path / f"{disk}.img" for disk in "ab"}
    for path in images.values():
        path.write_bytes(bytes(LANES * SLOTS * traffic.BLOCK))
    depth = {"disk:a/pci": [], "net:n/pci": []}
    with contextlib.ExitStack() as stack:
        wire, peer = connect(stack)
        daemon = start(name="generation0")
        serial = daemon.boot(vmmd.bare("traffic"), net=[{"id": "n", "tap": traffic.TAP, "rate_limiter_config": SLOW_NET}], disks=[
            {"id": "a", "path": str(images["a"]), "overlay": "memory", "rate_limiter_config": SLOW_DISK},
            {"id": "b", "path": str(images["b"])}])
        serial.expect("^ready$")
        serial.send("go")
        before = [-1] * LANES
        for generation in range(1, GENERATIONS + 1):
            sent, taken = wire.next + 100, peer.taken + 20
            traffic.move_until(lambda sent=sent, taken=taken: wire.next >= sent and peer.taken >= taken, wire, peer)
            snapshot = tmp_path / f"snapshot{generation}"
            traffic.cut_off(daemon, snapshot, wire)
            for unit, depths in depth.items():
                depths.append(traffic.waiting(snapshot, unit, traffic.TRANSMIT if unit.startswith("net") else 0))
            now = newest(images["b"])
            assert all(old < new for old, new in zip(before, now)), (before, now)
            before = now
            if generation in FORKS:
                for name in (f"left{generation}", f"right{generation}"):
                    fork(start, name, snapshot, images["b"], peer)
            daemon = start(name=f"generation{generation}")
            serial = daemon.restore(snapshot)
        # More often than not many deep, or this has not tested what it says.
        assert all(sorted(depths)[GENERATIONS // 2] >= 4 for depths in depth.values()), depth
        end_and_check(daemon, serial, wire, peer, images["b"])
