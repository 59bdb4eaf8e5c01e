"""What tests of guests that write and send without a pause look at: the wire, the images, and how much a snapshot has cut
off. All is in numbered, checksummed records (linux.record), each of which must be there whole, once and in its turn."""
import contextlib
import pathlib
import select
import socket
import struct
import time

import netns
import snapshot_reader
import vmmd
from linux import record

TAP, HOST_MAC = "traffic0", "02:77:66:55:44:33"
BLOCK = 4096
TRANSMIT = 1  # queue of a network


class Wire:
    """A tap in a namespace, made by us so that it outlives each vmmd, and all that comes in on it: of the frames that
    `record_of` finds a record of ours in, each must be the next."""

    def __init__(self, stack, seed, size, record_of, first=0):
        stack.enter_context(netns.namespace())
        pathlib.Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1", encoding="ascii")
        netns.ip("tuntap", "add", TAP, "mode", "tap", "vnet_hdr")
        netns.ip("link", "set", TAP, "address", HOST_MAC, "up")
        self.sniffer = stack.enter_context(netns.frames(TAP))
        self.sniffer.setblocking(False)
        self.seed, self.size, self.record_of = seed, size, record_of
        self.next = first

    def take(self):
        """Whether any came."""
        before = self.next
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, address = self.sniffer.recvfrom(65536)
                found = self.record_of(frame)
                if address[2] == socket.PACKET_OUTGOING or found is None:
                    continue
                assert found == record(self.next, self.seed, self.size), (self.next, found[:16])
                self.next += 1
        return self.next > before


def move_until(condition, wire, *movers):
    """Lets traffic flow. Each of `movers` has a fileno() to wait for, or not, and move()."""
    deadline = time.monotonic() + vmmd.PATIENCE
    waited_for = [wire.sniffer, *(each for each in movers if hasattr(each, "fileno"))]
    while not condition():
        assert time.monotonic() < deadline, (wire.next, [vars(each) for each in movers])
        select.select(waited_for, [], [], 0.02)
        wire.take()
        for each in movers:
            each.move()


def newest(path, writers, slots, seed):
    """Of each writer, the number of the last record in the image: all before it, as far as there is room, are there."""
    data, found = path.read_bytes(), []
    for writer in range(writers):
        numbers = []
        for slot in range(slots):
            at = (writer * slots + slot) * BLOCK
            block = data[at:at + BLOCK]
            if not any(block):
                continue
            number = int.from_bytes(block[:8], "little")
            assert block == record(number, seed + writer, BLOCK) and number % slots == slot, (writer, slot, number)
            numbers.append(number)
        last = max(numbers, default=-1)
        assert sorted(numbers) == list(range(max(0, last + 1 - slots), last + 1)), (writer, numbers)
        found.append(last)
    return found


def waiting(snapshot, unit, queue):
    """Requests in a ring that the device had not begun when it was saved."""
    found = snapshot_reader.check(snapshot)
    assert found.ok, found.problems
    ring = snapshot_reader.Message({each[0]: each[3] for each in found.units}[unit]).messages(11)[queue]
    address = ring.number(4) + 2
    start, _, at = next(part for part in found.layout if part[0] <= address < part[0] + part[1])
    with (snapshot / "memory.bin").open("rb") as memory:
        memory.seek(at + address - start)
        return (struct.unpack("<H", memory.read(2))[0] - ring.number(6)) & 0xFFFF


def cut_off(daemon, snapshot, wire):
    """A snapshot in full traffic, of a VM that is gone then; what was on its way has come."""
    daemon.put("vm.pause")
    daemon.snapshot(snapshot)
    daemon.kill()
    wire.take()
