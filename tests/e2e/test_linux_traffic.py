"""A Linux guest that writes to two disks, sends datagrams and echoes a TCP stream without a pause, cut off in full traffic:
nothing is lost, torn or there twice, and the stream goes on, over generations; in clones all but the stream. (Ten
generations, at native speed: test_traffic.py.)"""
import contextlib
import shutil
import socket
import struct

import netns
import traffic
from linux import record

GENERATIONS, FORK = 4, 2
HOST, GUEST = "10.90.0.1", "10.90.0.2"
PORT, DATAGRAM, ECHO = 7000, 1024, 1024
SEED = {"a": 5, "b": 25, "datagrams": 45, "echo": 65}
WRITERS, SLOTS = 2, 16
IN_THE_STREAM = 4  # records at a time
DATAGRAMS, ECHOES = 6, 2  # of each generation at least: Linux is slow where ring 0 is emulated
SLOW = {"ops": {"size": 1, "refill_time": 50}}  # so that one disk does not take all of the guest's time
CONNECTION_RESET = 104


def record_of(frame):
    udp = frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_UDP
    return frame[42:42 + DATAGRAM] if udp and struct.unpack_from("!H", frame, 36) == (PORT,) else None


def connect(stack, first=0):
    wire = traffic.Wire(stack, SEED["datagrams"], DATAGRAM, record_of, first)
    netns.ip("addr", "add", f"{HOST}/24", "dev", traffic.TAP)
    sink = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))  # else ICMP says that nobody is there
    sink.bind((HOST, PORT))
    return wire


class Stream:
    """Records that the guest checks and sends back: in order, whole, each once."""

    def __init__(self, connection):
        self.connection = connection
        self.connection.setblocking(False)
        self.out, self.back = b"", b""
        self.sent = self.echoed = 0
        self.more = True

    def fileno(self):
        return self.connection.fileno()

    def move(self):
        while self.more and self.sent - self.echoed < IN_THE_STREAM:
            self.out += record(self.sent, SEED["echo"], ECHO)
            self.sent += 1
        with contextlib.suppress(BlockingIOError):
            while self.out:
                self.out = self.out[self.connection.send(self.out):]
        with contextlib.suppress(BlockingIOError):
            while data := self.connection.recv(65536):
                self.back += data
            raise AssertionError("the guest has closed the stream")
        while len(self.back) >= ECHO:
            assert self.back[:ECHO] == record(self.echoed, SEED["echo"], ECHO), f"record {self.echoed}"
            self.back = self.back[ECHO:]
            self.echoed += 1


def newest(path):
    return traffic.newest(path, WRITERS, SLOTS, SEED["b"])


def end_and_check(daemon, serial, wire, image):
    """All that the guest says it has sent and written is there, and no more; (echoed, errno) by its account."""
    serial.send("traffic stop")
    said = []

    def has_stopped():
        with contextlib.suppress(AssertionError):
            said.append(serial.expect(r"^traffic stopped (\d+) (\d+) (\d+)$", timeout=0))
        return said

    traffic.move_until(has_stopped, wire)
    sent, echoed, error = map(int, said[0].groups())
    traffic.move_until(lambda: wire.next >= sent, wire)
    assert wire.next == sent
    serial.send("disk stop")
    last = {}
    for disk in "ab":
        last[disk] = [int(serial.expect(rf"^disk /dev/vd{disk} writer {writer} next (\d+)$")[1]) - 1
                      for writer in range(WRITERS)]
        assert min(last[disk]) >= 0
    for disk in "ab":
        checked = sum(min(number + 1, SLOTS) for number in last[disk])
        serial.ask(f"disk verify /dev/vd{disk} {SEED[disk]} 0 {SLOTS}", f"^disk checked {checked}$")
    daemon.put("vm.pause")
    assert newest(image) == last["b"]
    return echoed, error


def fork(start, snapshot, image, first):
    """A clone in a network of its own: its disks and datagrams go on from where its parent was, whose stream is lost."""
    copy = shutil.copy(image, snapshot.parent / "clone.img")
    with contextlib.ExitStack() as stack:
        wire = connect(stack, first)
        clone = start(name="clone")
        serial = clone.restore(snapshot, overrides={"disks": [{"id": "b", "path": str(copy)}]})
        traffic.move_until(lambda: wire.next >= first + DATAGRAMS, wire)
        assert end_and_check(clone, serial, wire, copy)[1] in (0, CONNECTION_RESET)
        clone.kill()


def test_linux_cut_off_in_full_traffic_goes_on_where_it_was(linux, start, tmp_path):
    images = {disk: tmp_path / f"{disk}.img" for disk in "ab"}
    for path in images.values():
        path.write_bytes(bytes(WRITERS * SLOTS * traffic.BLOCK))
    with contextlib.ExitStack() as stack:
        wire = connect(stack)
        listener = stack.enter_context(netns.listen(HOST))
        daemon = start(name="generation0")
        serial = linux.boot(daemon, more="tick=0", net=[{"id": "n", "tap": traffic.TAP}], disks=[
            {"id": "a", "path": str(images["a"]), "overlay": "memory", "rate_limiter_config": SLOW},
            {"id": "b", "path": str(images["b"]), "rate_limiter_config": SLOW}])
        serial.ask(f"net up eth0 {GUEST} 24", "^net up$")
        for disk in "ab":
            serial.ask(f"disk start /dev/vd{disk} {SEED[disk]} {WRITERS} {SLOTS}", "^disk writing$")
        serial.ask(f"traffic datagrams {HOST} {PORT} {SEED['datagrams']} {DATAGRAM}", "^traffic started$")
        serial.ask(f"traffic echo {HOST} {listener.getsockname()[1]} {SEED['echo']}", "^traffic started$")
        stream = Stream(stack.enter_context(listener.accept()[0]))
        for generation in range(1, GENERATIONS + 1):
            sent, echoed = wire.next + DATAGRAMS, stream.echoed + ECHOES
            traffic.move_until(lambda sent=sent, echoed=echoed: wire.next >= sent and stream.echoed >= echoed, wire, stream)
            snapshot = tmp_path / f"snapshot{generation}"
            traffic.cut_off(daemon, snapshot, wire)
            if generation == FORK:
                fork(start, snapshot, images["b"], wire.next)
            daemon = start(name=f"generation{generation}")
            serial = daemon.restore(snapshot)
        stream.more = False
        traffic.move_until(lambda: stream.echoed == stream.sent, wire, stream)
        assert end_and_check(daemon, serial, wire, images["b"]) == (stream.sent, 0)
