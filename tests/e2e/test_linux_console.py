"""virtio-console of the Linux guest, hvc0: its agent lives there, so that every word goes both ways."""
import fcntl
import os
import pathlib
import pty
import struct
import termios

import pytest

import vmmd
from remote import AtTerminal

MEMORY = 128 << 20


def boot(daemon, linux, console):
    payload = {"kernel": str(linux.kernel), "initramfs": str(linux.initramfs),
               "cmdline": linux.cmdline(MEMORY, "tick=200 console=hvc0")}
    daemon.create(linux.kernel, memory=MEMORY, payload=payload, console=console)
    daemon.put("vm.boot")


def line_on(daemon, path):
    line = vmmd.Serial(path)
    daemon.serials.append(line)
    return line


def counters(daemon):
    return daemon.get("vm.counters")["console"]


@pytest.fixture(scope="module")
def on_hvc0(linux, tmp_path_factory):
    """A snapshot of a guest whose agent talks on a console that is a socket."""
    folder = tmp_path_factory.mktemp("console")
    with vmmd.leaving_snapshot(folder) as daemon:
        boot(daemon, linux, {"mode": "Socket", "socket": str(folder / "console.sock")})
        line = line_on(daemon, folder / "console.sock")
        line.expect(r"^AGENT READY$", timeout=240)
        line.ask("echo both ways", r"^echo both ways$")
    return folder / "snapshot"


def restore(daemon, snapshot, resume=True):
    path = daemon.folder / "console.sock"
    daemon.restore(snapshot, resume=resume, overrides={"console": {"mode": "Socket", "socket": str(path)}})
    return line_on(daemon, path)


def restore_alone(daemon, snapshot, console):
    """Without a serial port."""
    overrides = {"serial": {"mode": "Null"}, **({"console": console} if console else {})}
    daemon.put("vm.restore", {"source_url": f"file://{snapshot}", "resume": True, "overrides": overrides})


def test_a_restored_console_goes_both_ways_on_its_own_socket(start, on_hvc0):
    clones = [start(name=f"clone{n}") for n in range(2)]
    lines = [restore(clone, on_hvc0) for clone in clones]
    for n, (clone, line) in enumerate(zip(clones, lines)):
        line.ask(f"echo clone {n}", f"^echo clone {n}$")
        assert counters(clone)["rx_bytes"] >= len(f"echo clone {n}\n")
        assert counters(clone)["tx_dropped"] == 0
    assert "clone 1" not in lines[0].text


def test_input_that_came_while_the_guest_was_paused_is_not_lost(start, on_hvc0):
    daemon = start()
    line = restore(daemon, on_hvc0, resume=False)
    line.send("echo patience")
    daemon.put("vm.resume")
    line.expect(r"^echo patience$")
    daemon.put("vm.pause")
    line.send("echo again")
    daemon.put("vm.resume")
    line.expect(r"^echo again$")


def test_a_client_that_goes_may_come_again(start, on_hvc0):
    daemon = start()
    restore(daemon, on_hvc0).close()
    again = line_on(daemon, daemon.folder / "console.sock")
    again.ask("echo here again", r"^echo here again$")


def test_much_output_arrives_whole(start, on_hvc0):
    daemon = start()
    line = restore(daemon, on_hvc0)
    text = "0123456789abcdef" * 30
    for n in range(40):
        line.ask(f"echo {n} {text}", f"^echo {n} {text}$")
    assert counters(daemon)["tx_dropped"] == 0


def test_vmm_remote_attaches_to_hvc0_by_a_pty_and_a_restore_has_a_new_one(start, on_hvc0, tmp_path):
    daemon = start()
    restore_alone(daemon, on_hvc0, {"mode": "Pty"})
    path = daemon.get("vm.info")["config"]["console"]["file"]
    assert pathlib.Path(path).is_char_device()
    with AtTerminal(daemon, "console") as console:
        console.expect(f"Connected to {path}")
        console.type("echo by pty\n")
        console.expect(r"echo by pty")
        console.type("\x1d")
        assert console.end() == 0
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snap")
    clone = start(name="clone")
    restore_alone(clone, tmp_path / "snap", None)
    assert clone.get("vm.info")["config"]["console"]["file"] != path
    with AtTerminal(clone, "console", "--device", "console") as console:
        console.type("echo from the clone\n")
        console.expect(r"echo from the clone")
        console.type("\x1d")
        assert console.end() == 0


def test_a_file_goes_on_after_the_restore(start, on_hvc0, tmp_path):
    daemon = start()
    file = tmp_path / "console.log"
    file.write_text("before\n")
    restore_alone(daemon, on_hvc0, {"mode": "File", "file": str(file)})
    vmmd.eventually(lambda: "tick" in file.read_text())
    daemon.put("vm.delete")
    assert file.read_text().startswith("before\n")


class Terminal:
    """A pty for vmmd to run at, with what vmmd.Serial wants of a socket for whoever sits there."""

    def __init__(self, columns, rows):
        self.fd, self.end = pty.openpty()
        self.resize(columns, rows)

    def resize(self, columns, rows):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def start(self, start, name):
        daemon = start(name=name, terminal=self.end)
        os.close(self.end)  # so that it ends with vmmd
        line = vmmd.Serial(None, self)
        daemon.serials.append(line)
        return daemon, line

    def settimeout(self, _):
        pass

    def recv(self, most):
        return os.read(self.fd, most)

    def sendall(self, data):
        os.write(self.fd, data)

    def shutdown(self, _):
        pass

    def close(self):
        os.close(self.fd)


def has_size(line, columns, rows):
    """Waits until the guest sees it. A size that came late would be seen by asking again."""
    vmmd.eventually(lambda: line.ask("size", r"^size (\d+ \d+)$")[1] == f"{columns} {rows}")


def test_the_guest_follows_the_size_of_vmmds_terminal(start, on_hvc0, tmp_path):
    terminal = Terminal(91, 33)
    daemon, line = terminal.start(start, "first")
    restore_alone(daemon, on_hvc0, {"mode": "Tty"})
    has_size(line, 91, 33)
    terminal.resize(133, 47)  # the kernel sends SIGWINCH
    has_size(line, 133, 47)
    daemon.put("vm.pause")
    terminal.resize(20, 10)
    daemon.put("vm.resume")
    has_size(line, 20, 10)
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snap")
    daemon.kill()

    other = Terminal(201, 61)
    clone, line = other.start(start, "clone")
    restore_alone(clone, tmp_path / "snap", None)
    has_size(line, 201, 61)
