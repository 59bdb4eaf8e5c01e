"""vmm-remote at a terminal: console, shell, completion, progress and Ctrl-C."""
import json
import os
import signal
import socket
import subprocess
import termios

import pytest

from remote import AtTerminal, as_json, environment, fails, ok, remote
from vmmd import PATIENCE, REMOTE, bare

pytestmark = pytest.mark.guest


def boot(daemon, kernel, mode, cmdline=""):
    config = daemon.config(bare(kernel), cmdline)
    if mode == "pty":
        config["serial"] = {"mode": "Pty"}
    daemon.put("vm.create", config)
    daemon.put("vm.boot")


@pytest.mark.parametrize("mode", ["pty", "socket"])
def test_console_goes_both_ways_and_gives_the_terminal_back(daemon, mode):
    boot(daemon, "tick", mode)
    with AtTerminal(daemon, "console") as console:
        console.expect(r"Connected to .*\. Ctrl-\] leaves\.")
        console.expect(r"tick \d+")
        raw = console.settings()
        assert not raw[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
        console.type("hello\n")
        console.expect("echo hello")
        console.type("\x03\n")  # Ctrl-C is the guest's
        console.expect("echo \x03")
        console.type("\x1d")
        console.expect("Left")
        assert console.settings() == console.before
        assert console.end() == 0
    assert daemon.state() == "Running"
    with AtTerminal(daemon, "console") as again:
        again.expect(r"tick \d+")
        again.type("\x1d")
        assert again.end() == 0


def test_console_with_sshs_escape(daemon):
    boot(daemon, "tick", "pty")
    with AtTerminal(daemon, "console", "--escape", "~.") as console:
        console.expect(r"~\. leaves")
        console.type("\x1d~.\n")
        console.expect("echo \x1d~\\.")
        console.type("~.")
        assert console.end() == 0


def test_console_gives_the_terminal_back_when_killed(daemon):
    boot(daemon, "tick", "pty")
    with AtTerminal(daemon, "console") as console:
        console.expect(r"tick \d+")
        os.kill(console.pid, signal.SIGTERM)
        console.expect("Left")
        assert console.settings() == console.before
        assert console.end() == 0


@pytest.mark.parametrize("mode", ["pty", "socket"])
def test_console_ends_with_the_vm(daemon, mode):
    boot(daemon, "tick", mode)
    with AtTerminal(daemon, "console") as console:
        console.expect(r"tick \d+")
        daemon.put("vm.delete")
        console.expect("The VM closed it")
        assert console.end() == 0


def test_console_in_a_pipe(daemon):
    boot(daemon, "tick", "socket")
    console = subprocess.Popen([REMOTE, "console"], env=environment(daemon), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    console.stdin.write(b"over a pipe\n")
    console.stdin.close()
    for line in console.stdout:
        if b"echo over a pipe" in line:
            break
    daemon.put("vm.delete")
    console.stdout.read()
    assert (console.wait(PATIENCE), console.stderr.read()) == (0, b"")


def test_console_says_why_it_cannot(daemon, tmp_path):
    assert "there is no VM" in fails(daemon, "console")
    for serial, words in (({"mode": "Null"}, "leads nowhere"), ({"mode": "File", "file": str(tmp_path / "log")}, "tail -f")):
        config = daemon.config(bare("idle"))
        config["serial"] = serial
        daemon.put("vm.create", config)
        assert words in fails(daemon, "console")
        daemon.put("vm.delete")


# The shell


def test_the_shell_speaks_openvmm(daemon, tmp_path):
    boot(daemon, "tick", "pty")
    script = f"p; snap {tmp_path}/one\nr ; nmi # all of them\nstatus\n"
    run = remote(daemon, "shell", stdin=script)
    assert (run.returncode, run.stderr) == (0, "")
    assert "State:   Running" in run.stdout
    assert (tmp_path / "one" / "manifest.bin").exists()


def test_a_script_stops_at_the_first_failure(daemon):
    boot(daemon, "tick", "pty")
    assert ok(daemon, "-c", "p; r; p") == ""
    assert daemon.state() == "Paused"
    assert "vm.pause failed" in fails(daemon, "-c", "pause; resume")
    assert daemon.state() == "Paused"
    assert "never closed" in fails(daemon, "-c", "i 'abc", code=2)
    assert "not built" in fails(daemon, "shell", "-c", "dump-state x", code=2)
    assert ok(daemon, "-c", "") == ""


def test_save_snapshot_pauses_and_resume_goes_on(daemon, tmp_path):
    boot(daemon, "tick", "pty")
    ok(daemon, "-c", f"save-snapshot '{tmp_path}/one'")
    assert daemon.state() == "Paused"
    ok(daemon, "-c", "resume")
    assert daemon.state() == "Running"


def test_shell_at_a_terminal(daemon, tmp_path):
    boot(daemon, "tick", "pty")
    with AtTerminal(daemon, "shell", XDG_STATE_HOME=str(tmp_path)) as shell:
        shell.expect("vmmd> ")
        shell.type("pau\t\n")
        shell.expect("vmmd> ")
        shell.type("status\n")
        shell.expect("State: +Paused")
        shell.expect("vmmd> ")
        shell.type("wait --state Running\n")
        shell.expect("wait --state Running\r\n")
        daemon.put("vm.resume")
        shell.expect("vmmd> ")
        shell.type("half a line\x03")
        shell.expect("vmmd> ")
        shell.type("psr\n")
        shell.expect("OpenVMM's psr is not built here")
        shell.type("quit\n")
        assert shell.end() == 0
    history = (tmp_path / "vmmd" / "shell_history").read_text()
    assert "status" in history and "half" not in history
    assert daemon.state() == "Running"


def test_ctrl_c_ends_the_command_and_not_the_shell(daemon, tmp_path):
    daemon.create(bare("idle"))
    with AtTerminal(daemon, "shell", XDG_STATE_HOME=str(tmp_path)) as shell:
        shell.expect("vmmd> ")
        shell.type("events --since 0\n")
        shell.expect('"event":"created"')
        shell.type("\x03")
        shell.expect("vmmd> ")
        shell.type("\x04")
        assert shell.end() == 0


# Completion


@pytest.mark.parametrize("line, words", [
    (["pau"], {"pause"}),
    (["snapshot", "ver"], {"verify"}),
    (["wait", "--state", "P"], {"Paused"}),
    (["snapshot", "--mode", ""], {"auto", "copy", "link", "reflink"}),
    (["--api-socket", "/x", "pi"], {"ping"}),
    (["snapshot", "check", "--o"], {"--overrides"}),
    (["completion", ""], {"bash", "zsh", "fish"}),
])
def test_bash_completes(line, words):
    script = ok(None, "completion", "bash")
    quoted = " ".join(f"'{word}'" for word in ["vmm-remote", *line])
    script += f'COMP_WORDS=({quoted}); COMP_CWORD={len(line)}; _vmm_remote; printf "%s\\n" "${{COMPREPLY[@]}}"\n'
    run = subprocess.run(["bash", "-u", "-c", script],
                         capture_output=True, text=True, timeout=PATIENCE)
    assert run.stderr == ""
    assert set(run.stdout.split()) >= words, run.stdout
    if line[-1]:
        assert set(run.stdout.split()) == words


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script(shell):
    script = ok(None, "completion", shell)
    assert "verify" in script and "reflink" in script


# Progress and Ctrl-C


class SlowServer:
    """Answers as a vmmd whose snapshot never ends until somebody cancels it."""

    def __init__(self, path):
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen(16)
        self.api = path

    def request(self):
        connection = self.listener.accept()[0]
        connection.settimeout(PATIENCE)
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        length = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
        while length and len(body) < length[0]:
            body += connection.recv(65536)
        return connection, head.split()[1].decode().rsplit("/", 1)[1], body

    @staticmethod
    def answer(connection, status, body=b"", close=True):
        connection.sendall(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, len(body), body))
        if close:
            connection.close()

    @staticmethod
    def event(connection, event, **properties):
        line = json.dumps({"sequence": 1, "source": "vm", "event": event, "properties": properties})
        data = f"data: {line}\n\n".encode()
        connection.sendall(b"%x\r\n%s\r\n" % (len(data), data))


def test_ctrl_c_cancels_the_snapshot_and_shows_how_far_it_was(tmp_path):
    server = SlowServer(tmp_path / "api.sock")
    with AtTerminal(server, "snapshot", "file:///one") as run:
        events, name, _ = server.request()
        assert name == "events"
        events.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n")
        snapshot, name, body = server.request()
        assert name == "vm.snapshot" and json.loads(body)["destination_url"] == "file:///one"
        server.event(events, "snapshotting", job="snapshot-3", destination="file:///other")
        server.event(events, "snapshotting", job="snapshot-7", destination="file:///one")
        jobs = [{"id": f"snapshot-{n}", "kind": "snapshot", "phase": "memory", "bytes_done": n << 20,
                 "bytes_total": 10 << 20, "seconds": 1.5} for n in (3, 7)]
        interrupted = False
        while True:
            connection, name, body = server.request()
            if name == "vm.info":
                server.answer(connection, 200, json.dumps({"jobs": jobs}).encode())
                if not interrupted:
                    run.expect(r"memory \[=+ +\]  70%  7 MiB of 10 MiB")
                    run.type("\x03")
                    interrupted = True
                continue
            assert (name, json.loads(body)) == ("vm.cancel", {"id": "snapshot-7"})
            break
        server.answer(snapshot, 409, b'["vm.snapshot failed","snapshot-7 was cancelled"]')
        server.answer(connection, 204)
        run.expect("1: snapshot-7 was cancelled")
        assert run.end() == 1


def test_a_long_restore_shows_how_far_it_is_before_there_is_a_vm_to_ask(tmp_path):
    server = SlowServer(tmp_path / "api.sock")
    with AtTerminal(server, "restore", "source_url=file:///one,memory_restore_mode=copy") as run:
        events, _, _ = server.request()
        events.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n")
        restore, name, body = server.request()
        assert name == "vm.restore" and json.loads(body)["memory_restore_mode"] == "Copy"
        server.event(events, "restoring", job="restore-2", source="file:///one")
        for part in (3, 8):
            server.event(events, "job-progress", job="restore-1", phase="memory", bytes_done=str(9 << 30),
                         bytes_total=str(10 << 30))  # another's
            server.event(events, "job-progress", job="restore-2", phase="memory", bytes_done=str(part << 30),
                         bytes_total=str(10 << 30))
            run.expect(rf"restoring memory \[=+ +\]  {part}0%  {part} GiB of 10 GiB")
        server.answer(restore, 204)
        server.listener.close()  # its questions after a VM, which does not exist yet, end unanswered
        assert run.end() == 0
    assert run.text.endswith("\r\x1b[K")


def test_a_second_ctrl_c_leaves_at_once(tmp_path):
    server = SlowServer(tmp_path / "api.sock")
    with AtTerminal(server, "--quiet", "restore", "/one") as run:
        events, _, _ = server.request()
        server.answer(events, 404, b'["no such endpoint"]')
        restore, name, _ = server.request()
        assert name == "vm.restore"
        run.type("\x03")
        run.expect("again leaves at once")
        run.type("\x03")
        assert run.end() == 130


def test_a_snapshot_at_a_terminal_works_as_elsewhere(daemon, tmp_path):
    boot(daemon, "tick", "pty")
    with AtTerminal(daemon, "snapshot", "--pause", "--resume", tmp_path / "one") as run:
        run.expect('"snapshot_id"')
        assert run.end() == 0
    ok(daemon, "delete")
    with AtTerminal(daemon, "restore", f"{tmp_path}/one,resume=on") as run:
        assert run.end() == 0
        assert run.text.replace("\r\x1b[K", "") == ""
    assert as_json(daemon, "status")["result"]["state"] == "Running"
