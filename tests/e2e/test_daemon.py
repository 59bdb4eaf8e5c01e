"""vmmd as a process: its socket, its options, its end."""
import json
import os
import select
import signal
import socket
import stat
import subprocess

import pytest

from vmmd import PATIENCE, VMMD, Serial, bare, unix_socket


class Spawned:
    """A vmmd whose event monitor is a pipe of ours."""

    def __init__(self, *arguments):
        self.events, write = os.pipe()
        self.text = b""
        self.process = subprocess.Popen(
            [VMMD, *map(str, arguments), "--event-monitor", f"fd={write}"], pass_fds=[write],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        os.close(write)

    def wait_event(self, name):
        while name not in [f'{event["source"]}:{event["event"]}' for event in self.seen()]:
            ready, _, _ = select.select([self.events], [], [], PATIENCE)
            data = os.read(self.events, 65536) if ready else b""
            assert data, f"{name} never came: {self.text}"
            self.text += data

    def seen(self):
        return [json.loads(line) for line in self.text.split(b"\n")[:-1] if line]

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        os.close(self.events)


@pytest.fixture
def spawn():
    """spawn(*arguments): a vmmd that has said that it runs."""
    spawned = []

    def run(*arguments):
        spawned.append(Spawned(*arguments))
        spawned[-1].wait_event("vmm:starting")
        return spawned[-1]

    yield run
    for each in spawned:
        each.end()


def run(*arguments):
    return subprocess.run([VMMD, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=PATIENCE)


def ping(path):
    with unix_socket(path) as client:
        client.sendall(b"GET /api/v1/vmm.ping HTTP/1.0\r\n\r\n")
        return client.recv(4096).split(b"\r\n")[0]


def test_version(spawn):
    result = run("--version")
    assert result.returncode == 0 and "vmmd" in result.stdout


def test_help_names_the_options():
    result = run("--help")
    assert result.returncode == 0
    for option in ("--api-socket", "--event-monitor", "--kernel", "--cmdline", "--initramfs", "--cpus", "--memory",
                   "--serial", "--restore", "--log-file", "--no-shutdown"):
        assert option in result.stdout, option


def test_an_unknown_option_is_named():
    result = run("--colour", "blue")
    assert result.returncode == 2 and result.stderr.startswith("vmmd: ") and "--colour" in result.stderr
    result = run("--kernal", "vmlinux")
    assert result.returncode == 2 and "did you mean --kernel?" in result.stderr


def test_an_option_of_cloud_hypervisor_s_that_is_not_built_is_named_as_such():
    result = run("--firmware", "/fw", "--kernel", bare("tick"))
    assert result.returncode == 2 and "it is not built yet" in result.stderr and "--firmware" in result.stderr


def test_a_log_file_makes_no_directories(tmp_path):
    result = run("--api-socket", tmp_path / "api.sock", "--log-file", tmp_path / "no" / "vmmd.log")
    assert result.returncode == 1 and f"there is no directory {tmp_path}/no" in result.stderr
    assert not (tmp_path / "no").exists()


def test_without_an_api_a_crash_of_the_guest_ends_it(tmp_path):
    result = run("--kernel", bare("triple"), "--memory", "size=64M", "--serial", f"file={tmp_path}/serial")
    assert result.returncode == 1 and "triple fault" in result.stderr


def test_without_an_api_the_log_tells_what_happens(tmp_path):
    """-v: events; -vv: what became of each command, too."""
    for verbosity, told in (((), False), (("-v",), False), (("-v", "-v"), True)):
        result = run(*verbosity, "--kernel", bare("poweroff"), "--memory", "size=64M", "--serial", "null")
        assert result.returncode == 0, result.stderr
        events = [line for line in ("vmm: starting", "vm: booted", "guest: shutdown", "vmm: shutdown")
                  if line in result.stderr]
        assert len(events) == (4 if verbosity else 0), result.stderr
        assert ("vm.boot: done in" in result.stderr) == told, result.stderr


def test_the_socket_is_private_and_goes_with_the_daemon(spawn, tmp_path):
    path = tmp_path / "api.sock"
    process = spawn("--api-socket", path).process
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and b" 200 " in ping(path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    assert not path.exists()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(spawn, tmp_path, end):
    process = spawn("--api-socket", tmp_path / "api.sock").process
    process.send_signal(end)
    assert process.wait(PATIENCE) == 0


def test_a_socket_in_use_is_refused(spawn, tmp_path):
    path = tmp_path / "api.sock"
    spawn("--api-socket", path)
    result = run("--api-socket", path)
    assert result.returncode != 0 and str(path) in result.stderr
    assert b" 200 " in ping(path)


def test_a_stale_socket_is_replaced(spawn, tmp_path):
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    spawn("--api-socket", path)
    assert b" 200 " in ping(path)


def test_a_file_in_the_socket_s_place_is_left_alone(tmp_path):
    path = tmp_path / "api.sock"
    path.write_text("mine")
    result = run("--api-socket", path)
    assert result.returncode != 0 and str(path) in result.stderr
    assert path.read_text() == "mine"


def test_a_place_that_is_not_there_is_named(tmp_path):
    result = run("--api-socket", tmp_path / "no" / "api.sock")
    assert result.returncode != 0 and "no/api.sock" in result.stderr


def test_options_boot_a_guest_at_once(spawn, tmp_path):
    out = tmp_path / "serial"
    os.mkfifo(out)
    reader = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
    spawn("--api-socket", tmp_path / "api.sock", "--kernel", bare("tick"), "--cmdline", "period_ms=5",
          "--cpus", "boot=1", "--memory", "size=64M", "--serial", f"file={out}")
    text = b""
    while b"tick 5\n" not in text:
        ready, _, _ = select.select([reader], [], [], PATIENCE)
        assert ready, text
        text += os.read(reader, 4096)
    os.close(reader)


def test_restore_from_the_command_line(spawn, start, tmp_path):
    first = start()
    first.boot(bare("tick")).expect(r"^tick 3$")
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap")
    first.stop()
    second = spawn("--api-socket", tmp_path / "api.sock", "--restore", f"source_url=file://{tmp_path}/snap,resume=true")
    second.wait_event("vm:resumed")
    serial = Serial(first.serial_path)
    serial.expect(r"^tick \d+$")
    serial.close()


def test_restore_with_overrides_from_the_command_line(spawn, start, tmp_path):
    first = start()
    first.boot(bare("tick")).expect(r"^tick 3$")
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap")
    overrides = tmp_path / "overrides.json"
    overrides.write_text(json.dumps({"serial": {"mode": "Socket", "socket": f"{tmp_path}/clone"}}))
    clone = spawn("--api-socket", tmp_path / "api.sock", "--restore", f"source_url=file://{tmp_path}/snap,resume=true",
                  "--overrides", overrides)
    clone.wait_event("vm:resumed")
    serial = Serial(tmp_path / "clone")
    serial.expect(r"^tick \d+$")
    serial.close()


def test_a_restored_vm_goes_on_in_the_file_of_its_serial_port(start, tmp_path):
    out = tmp_path / "serial"
    first = start()
    first.put("vm.create", {**first.config(bare("tick")), "serial": {"mode": "File", "file": str(out)}})
    first.put("vm.boot")
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap")
    first.stop()
    out.write_text("from before\n")
    start().put("vm.restore", {"source_url": f"file://{tmp_path}/snap"})
    assert out.read_text() == "from before\n"
    start().put("vm.create", {**first.config(bare("tick")), "serial": {"mode": "File", "file": str(out)}})
    assert out.read_text() == "", "a new VM starts its file anew"


def test_a_kernel_that_is_not_there_fails_the_start(tmp_path):
    result = run("--api-socket", tmp_path / "api.sock", "--kernel", "/no/such/kernel")
    assert result.returncode == 1 and "/no/such/kernel" in result.stderr
    assert "vm.boot" not in result.stderr, "what was never tried is no mistake"
