"""vsock of a Linux guest: booted with the device once, then restored for each test with its own socket and CID."""
import contextlib
import socket

import pytest

import vmmd
from linux import pattern

PORT = 1234  # of the guest
LINES = 1235  # where the agent obeys a line
CID = 42
LOST = r"^vsock: error (104|107)$"  # ECONNRESET, ENOTCONN


@pytest.fixture(scope="module")
def with_vsock(linux, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vsock")
    with vmmd.leaving_snapshot(folder) as daemon:
        serial = linux.boot(daemon, more=f"tick=200 serve={LINES}", vsock={"cid": CID, "socket": str(folder / "v")})
        serial.ask("vsock cid", f"^vsock cid {CID}$")
        serial.ask(f"vsock listen {PORT}", "^vsock listening$")
    return folder / "snapshot"


@pytest.fixture
def guest(start, with_vsock):
    """A restored guest that listens on PORT: (its daemon, its serial line, its socket's path)."""
    return restore(start(), with_vsock)


def restore(daemon, snapshot, cid=CID):
    path = daemon.folder / "v"
    serial = daemon.restore(snapshot, overrides={"vsock": {"cid": cid, "socket": str(path)}})
    return daemon, serial, path


def line_of(stream):
    line = b""
    while not line.endswith(b"\n"):
        byte = stream.recv(1)
        assert byte, f"the stream ended after {line!r}"
        line += byte
    return line


def all_of(stream, size):
    data = b""
    while len(data) < size:
        piece = stream.recv(min(size - len(data), 65536))
        assert piece, f"the stream ended after {len(data)} of {size} bytes"
        data += piece
    return data


def connect(path, port=PORT):
    """From the host to a port that the guest listens on."""
    stream = vmmd.unix_socket(path)
    stream.sendall(f"CONNECT {port}\n".encode())
    assert line_of(stream).startswith(b"OK ")
    return stream


def accepted(serial, path, port=PORT):
    stream = connect(path, port)
    serial.ask("vsock accept", "^vsock accepted$")
    return stream


@contextlib.contextmanager
def service(path, port):
    """A host program that the guest reaches at `port`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.settimeout(vmmd.PATIENCE)
        listener.bind(f"{path}_{port}")
        listener.listen()
        yield listener


def called(serial, listener, port):
    serial.ask(f"vsock connect {port}", "^vsock connected$")
    stream, _ = listener.accept()
    stream.settimeout(vmmd.PATIENCE)
    return stream


def talk(serial, stream):
    stream.sendall(b"question")
    serial.ask("vsock read", "^vsock read question$")
    serial.ask("vsock write the answer", "^vsock written$")
    assert all_of(stream, 10) == b"the answer"


def test_both_sides_call_and_talk(guest):
    daemon, serial, path = guest
    with accepted(serial, path) as stream:
        talk(serial, stream)
    with service(path, 5000) as listener, called(serial, listener, 5000) as stream:
        talk(serial, stream)
    counters = daemon.get("vm.counters")["vsock"]
    assert counters["opened"] == 2 and counters["refused"] == 0
    assert counters["rx_bytes"] == 16 and counters["tx_bytes"] == 20


def test_large_transfers_arrive_whole_both_ways(guest):
    _, serial, path = guest
    kib = 256
    with accepted(serial, path) as stream:
        # More than both ends hold: the guest has to be told of room again and again.
        serial.send(f"vsock send 3 {kib}")
        assert all_of(stream, kib << 10) == pattern(3, kib << 10)
        serial.expect(r"^ok \w+$")
        serial.send(f"vsock receive 4 {kib}")
        stream.sendall(pattern(4, kib << 10))
        serial.expect(r"^ok \w+$")


def test_each_side_may_end_its_half(guest):
    _, serial, path = guest
    with accepted(serial, path) as stream:
        stream.shutdown(socket.SHUT_WR)
        serial.ask("vsock read", "^vsock end$")
        serial.ask("vsock write still here", "^vsock written$")
        assert all_of(stream, 10) == b"still here"
    with accepted(serial, path) as stream:
        serial.ask("vsock shut", "^vsock shut$")
        assert stream.recv(1) == b""
        stream.sendall(b"still there")
        serial.ask("vsock read", "^vsock read still there$")
        serial.ask("vsock close", "^vsock closed$")


def test_a_peer_that_is_gone_is_an_end_and_then_an_error(guest):
    _, serial, path = guest
    accepted(serial, path).close()
    serial.ask("vsock read", "^vsock end$")
    serial.ask("vsock write to nobody", r"^vsock: error (32|104|107)$")  # EPIPE and the like
    # Nobody listens on the host, or in the guest.
    serial.ask("vsock connect 5001", "^vsock: error 104$")
    with vmmd.unix_socket(path) as stream:
        stream.sendall(b"CONNECT 77\n")
        assert stream.recv(1) == b""
    with accepted(serial, path) as stream:
        talk(serial, stream)


def test_open_streams_are_reset_at_a_restore_and_new_ones_work(start, guest, tmp_path):
    daemon, serial, path = guest
    stream = accepted(serial, path)
    talk(serial, stream)
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snap")
    daemon.put("vm.resume")
    talk(serial, stream)  # the first VM's goes on
    stream.close()
    daemon.kill()

    _, serial, path = restore(start(), tmp_path / "snap", cid=CID + 1)
    with connect(path) as stream:
        serial.ask("vsock read", LOST)
        serial.ask("vsock cid", f"^vsock cid {CID + 1}$")
        serial.ask("vsock accept", "^vsock accepted$")
        talk(serial, stream)
    with service(path, 5000) as listener, called(serial, listener, 5000) as stream:
        talk(serial, stream)


def test_clones_have_sockets_of_their_own(start, with_vsock):
    clones = [restore(start(name=f"clone{n}"), with_vsock, cid=100 + n) for n in range(2)]
    streams = [accepted(serial, path) for _, serial, path in clones]
    for n, ((_, serial, _), stream) in enumerate(zip(clones, streams)):
        serial.ask("vsock cid", f"^vsock cid {100 + n}$")
        talk(serial, stream)
        stream.close()
    for _, _, path in clones:
        with connect(path, LINES) as stream:
            stream.sendall(b"count\n")
            assert line_of(stream).startswith(b"count ")
            assert stream.recv(1) == b""


def test_a_reboot_ends_streams_and_keeps_the_socket(guest):
    daemon, serial, path = guest
    with accepted(serial, path) as stream:
        serial.ask("reboot", r"^reboot$")
        assert stream.recv(1) == b""
    daemon.events.wait("vm", "rebooted")
    serial.expect(r"^AGENT READY$", timeout=240)
    serial.ask(f"vsock listen {PORT}", "^vsock listening$")
    with accepted(serial, path) as stream:
        talk(serial, stream)


def test_a_live_socket_is_refused_and_a_stale_one_replaced(start, tmp_path):
    first = start()
    config = {"kernel": vmmd.bare("idle"), "vsock": {"cid": 3, "socket": str(tmp_path / "v")}}
    first.create(**config)
    second = start()
    with pytest.raises(vmmd.ApiError) as refused:
        second.create(**config)
    assert refused.value.status == 409 and "in use by another process" in refused.value.text
    first.kill()
    assert (tmp_path / "v").is_socket()
    second.create(**config)
    second.put("vm.delete")
    assert not (tmp_path / "v").exists()
