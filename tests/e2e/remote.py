"""vmm-remote under test: runs it against a daemon, plainly or at a terminal of its own."""
import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time

from vmmd import PATIENCE, REMOTE


def environment(daemon=None, **more):
    clean = {key: value for key, value in os.environ.items() if key != "VMMD_SOCKET"}
    if daemon is not None:
        clean["VMMD_SOCKET"] = str(daemon.api)
    return {**clean, **more}


def remote(daemon, *arguments, stdin="", inherit=(), **more):
    """A finished run: returncode, stdout, stderr. `inherit`: descriptors it has."""
    return subprocess.run([REMOTE, *map(str, arguments)], input=stdin, env=environment(daemon, **more),
                          capture_output=True, text=True, timeout=PATIENCE, pass_fds=inherit)


def ok(daemon, *arguments, **more):
    """Standard output of a run that succeeds and complains of nothing."""
    run = remote(daemon, *arguments, **more)
    assert (run.returncode, run.stderr) == (0, ""), run
    return run.stdout


def fails(daemon, *arguments, code=1, **more):
    """Standard error of a run that fails and prints nothing else."""
    run = remote(daemon, *arguments, **more)
    assert (run.returncode, run.stdout) == (code, ""), run
    return run.stderr


def as_json(daemon, *arguments, **more):
    run = remote(daemon, *arguments, "--json", **more)
    assert run.stderr == "", run
    answer = json.loads(run.stdout)
    assert answer["ok"] == (run.returncode == 0)
    return answer


def spawn(daemon, *arguments, **more):
    return subprocess.Popen([REMOTE, *map(str, arguments)], env=environment(daemon), text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


class AtTerminal:
    """A run whose input and output are a pty, with it as controlling terminal: Ctrl-C is a signal."""

    def __init__(self, daemon, *arguments, **more):
        self.text = ""
        self.at = 0
        wait, go = os.pipe()
        pid, self.fd = pty.fork()
        if pid == 0:
            os.read(wait, 1)
            os.execve(REMOTE, [str(REMOTE), *map(str, arguments)], environment(daemon, TERM="xterm", **more))
        self.pid = pid
        self.status = None
        self.before = self.settings()  # the terminal's, as the run finds it
        os.write(go, b"!")
        os.close(wait)
        os.close(go)

    def settings(self):
        return termios.tcgetattr(self.fd)

    def type(self, text):
        os.write(self.fd, text.encode())

    def _read(self, deadline):
        left = deadline - time.monotonic()
        ready = select.select([self.fd], [], [], max(left, 0))[0]
        assert ready, f"nothing more came; so far: {self.text!r}"
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # the other end is gone
            data = b""
        self.text += data.decode(errors="replace")
        return bool(data)

    def expect(self, pattern, timeout=PATIENCE):
        deadline = time.monotonic() + timeout
        while True:
            match = re.compile(pattern, re.MULTILINE).search(self.text, self.at)
            if match:
                self.at = match.end()
                return match
            assert self._read(deadline), f"it ended without {pattern!r}: {self.text!r}"

    def end(self, timeout=PATIENCE):
        """The exit code, once all it said has been read."""
        deadline = time.monotonic() + timeout
        while self._read(deadline):
            pass
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return self.status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self.fd)
