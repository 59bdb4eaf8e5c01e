"""One vmmd under test: the process, its API over a real Unix socket, its events, and a guest's serial line.

Nothing here sleeps or polls: sockets are awaited with deadlines, and the API socket is handed to vmmd already
listening, so that a connection made before it is ready simply waits.
"""
import contextlib
import fcntl
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import termios
import threading
import time

import openapi

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("VMMD_BUILD", ROOT / "build"))
VMMD = BUILD / "daemon" / "vmmd"
REMOTE = BUILD / "remote" / "vmm-remote"
SANITIZED = "asan" in BUILD.name
# Emulated ring 0, two cores and sanitizers: generous, because a test that waits this long has failed anyway.
PATIENCE = float(os.environ.get("VMMD_PATIENCE", 60))


def eventually(condition, patience=PATIENCE):
    """The first true value of `condition()`, where nothing tells when it becomes true. Limited by time, not by a number
    of looks: those take no time on a fast host."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)
    return value


def bare(name):
    return str(BUILD / "tests" / "guest" / f"{name}.elf")


class ApiError(Exception):
    def __init__(self, status, messages):
        super().__init__(f"{status}: {messages}")
        self.status = status
        self.messages = messages
        self.text = " ".join(messages) if isinstance(messages, list) else str(messages)


def echo_by_vsock(path):
    """A Linux guest's agent (serve=1234) answers a connection through the host's end of vsock."""
    with unix_socket(path) as stream:
        stream.sendall(b"CONNECT 1234\necho hello\n")
        answer = b""
        while not answer.endswith(b"echo hello\n"):
            more = stream.recv(4096)
            assert more, answer
            answer += more


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout, fds=()):
        """`fds`: go with the first bytes that are sent."""
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)
        self.fds = fds

    def connect(self):
        self.sock = unix_socket(self.path, self.timeout)

    def send(self, data):
        if self.fds:
            self.connect()
            first, self.fds = self.fds, ()
            data = data[socket.send_fds(self.sock, [data], first):]
        super().send(data)


def unix_socket(path, timeout=PATIENCE):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(timeout)
    client.connect(str(path))
    return client


class Events:
    """The event stream since the daemon's start; `wait` looks at those already seen first."""

    def __init__(self, path):
        self.connection = UnixConnection(path, PATIENCE)
        self.connection.connect()
        self.socket = self.connection.sock  # http.client forgets it once the answer says "close"
        # A future sequence number is another daemon's: the whole history comes first.
        self.connection.request("GET", "/api/v1/events", headers={"Last-Event-ID": str(2**60)})
        self.response = self.connection.getresponse()
        assert self.response.status == 200, self.response.read()
        self.seen = []
        self.taken = 0  # what wait() has passed

    def _next(self, deadline):
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"no such event; seen: {self.names()}")
            self.socket.settimeout(left)
            try:
                line = self.response.readline()
            except TimeoutError:
                continue
            if not line:
                raise AssertionError(f"the event stream ended; seen: {self.names()}")
            if line.startswith(b"data:"):
                self.seen.append(json.loads(line[5:]))
                return

    def wait(self, source, event, timeout=PATIENCE):
        """The next such event after the one the last wait() returned."""
        deadline = time.monotonic() + timeout
        while True:
            while self.taken < len(self.seen):
                found = self.seen[self.taken]
                self.taken += 1
                if (found["source"], found["event"]) == (source, event):
                    return found
            self._next(deadline)

    def names(self):
        return [f'{event["source"]}:{event["event"]}' for event in self.seen]

    def close(self):
        self.connection.close()


class Serial:
    """A guest's COM1 as a Unix socket (or `stream`, which is as good as one): everything it said is kept; `expect` moves
    on past what it found."""

    def __init__(self, path, stream=None):
        self.text = ""
        self.at = 0
        self.ended = False
        self.changed = threading.Condition()
        self.socket = stream or unix_socket(path)
        self.socket.settimeout(None)
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        while True:
            try:
                data = self.socket.recv(65536)
            except OSError:
                data = b""
            with self.changed:
                self.text += data.decode("latin-1")
                self.ended = not data
                self.changed.notify_all()
            if not data:
                return

    def send(self, line):
        self.socket.sendall(line.encode() + b"\n")

    def expect(self, pattern, timeout=PATIENCE):
        """The next match of the regular expression, as a match object. A final $ waits for the end of the line."""
        if pattern.endswith("$"):
            pattern = pattern[:-1] + r"\r?\n"
        compiled = re.compile(pattern, re.MULTILINE)
        deadline = time.monotonic() + timeout
        with self.changed:
            while True:
                match = compiled.search(self.text, self.at)
                if match:
                    self.at = match.end()
                    return match
                left = deadline - time.monotonic()
                if left <= 0 or self.ended:
                    raise AssertionError(f"the guest never said {pattern!r}; its last words: {self.text[-400:]!r}")
                self.changed.wait(left)

    def ask(self, line, pattern, timeout=PATIENCE):
        self.send(line)
        return self.expect(pattern, timeout)

    def quiet_since(self):
        """A mark for `said_since`."""
        with self.changed:
            return len(self.text)

    def said_since(self, mark):
        with self.changed:
            return self.text[mark:]

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.reader.join()
        self.socket.close()


class Daemon:
    def __init__(self, folder, *arguments, wrapper=(), inherit=(), terminal=None):
        """`wrapper`: what runs vmmd, a program with its arguments that becomes vmmd. `inherit`: descriptors it has.
        `terminal`: the end of a pty, to be standard input and output and the controlling terminal."""
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.api = self.folder / "api.sock"
        self.log = self.folder / "vmmd.log"
        self.serials = []
        self.answered = False
        self._events = None
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(self.api))
            listener.listen(256)
            log = self.log.open("ab")
            where = {"stdin": subprocess.DEVNULL, "stdout": log}
            if terminal is not None:
                where = {"stdin": terminal, "stdout": terminal, "start_new_session": True,
                         "preexec_fn": lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)}
            self.process = subprocess.Popen(
                [*wrapper, VMMD, "--api-socket", f"fd={listener.fileno()}", "-v", *map(str, arguments)],
                stderr=log, pass_fds=[listener.fileno(), *inherit], **where)

    # The API

    def raw(self, method, path, body=None, timeout=PATIENCE, fds=()):
        """(status, parsed body or None)"""
        connection = UnixConnection(self.api, timeout, fds)
        try:
            headers = {"Accept": "application/json"}
            data = body
            if body is not None:
                headers["Content-Type"] = "application/json"
                data = body if isinstance(body, (str, bytes)) else json.dumps(body)
            connection.request(method, "/api/v1/" + path, body=data, headers=headers)
            response = connection.getresponse()
            text = response.read()
            self.answered = True
            answer = json.loads(text) if text else None
            openapi.check(method, path, body, response.status, answer)
            return response.status, answer
        finally:
            connection.close()

    def call(self, method, path, body=None, timeout=PATIENCE, fds=()):
        status, answer = self.raw(method, path, body, timeout, fds)
        if status >= 300:
            raise ApiError(status, answer)
        return answer

    def get(self, path):
        return self.call("GET", path)

    def put(self, path, body=None, timeout=PATIENCE, fds=()):
        return self.call("PUT", path, body, timeout, fds)

    def state(self):
        return self.get("vm.info")["state"]

    @property
    def events(self):
        if self._events is None:
            self._events = Events(self.api)
        return self._events

    def jobs_end(self, patience=PATIENCE):
        """Waits until nothing goes on behind the VM any more."""
        deadline = time.monotonic() + patience
        while jobs := self.get("vm.info")["jobs"]:
            assert time.monotonic() < deadline, jobs
            time.sleep(0.002)

    # A guest

    def config(self, kernel, cmdline="", memory=64 << 20, cpus=1, **more):
        return {
            "cpus": {"boot_vcpus": cpus, "max_vcpus": cpus},
            "memory": {"size": memory},
            "payload": {"kernel": str(kernel), **({"cmdline": cmdline} if cmdline else {})},
            "serial": {"mode": "Socket", "socket": str(self.serial_path)},
            **more,
        }

    @property
    def serial_path(self):
        return self.folder / "serial.sock"

    def create(self, kernel, cmdline="", fds=(), **more):
        config = self.config(kernel, cmdline, **more)
        self.put("vm.create", config, fds=fds)
        return config

    def boot(self, kernel, cmdline="", **more):
        """Creates and boots; returns the guest's serial line."""
        self.create(kernel, cmdline, **more)
        self.put("vm.boot")
        return self.serial()

    def serial(self):
        line = Serial(self.serial_path)
        self.serials.append(line)
        return line

    def snapshot(self, folder, **more):
        return self.put("vm.snapshot", {"destination_url": f"file://{folder}", **more})

    def restore(self, folder, resume=True, fds=(), **more):
        """Restores with this daemon's own serial socket; returns the guest's serial line."""
        overrides = {"serial": {"mode": "Socket", "socket": str(self.serial_path)}}
        overrides.update(more.pop("overrides", {}))
        self.put("vm.restore", {"source_url": f"file://{folder}", "resume": resume, "overrides": overrides, **more},
                 fds=fds)
        return self.serial()

    # The end

    def close_clients(self):
        for line in self.serials:
            line.close()
        self.serials.clear()
        if self._events:
            self._events.close()
            self._events = None

    def kill(self):
        """kill -9, as a power cut would."""
        self.process.kill()
        self.process.wait(PATIENCE)
        self.close_clients()

    def wait_exit(self, timeout=PATIENCE):
        return self.process.wait(timeout)

    def stop(self):
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            if not self.answered:  # it may not have got as far as its signal handlers
                with contextlib.suppress(OSError, http.client.HTTPException):
                    self.raw("GET", "vmm.ping")
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(PATIENCE)
                raise AssertionError("vmmd did not end within a minute of SIGTERM") from None
            finally:
                self.close_clients()
        self.close_clients()
        return self.process.returncode


@contextlib.contextmanager
def leaving_snapshot(folder):
    """A daemon for a block at whose end its running VM is paused and becomes folder/snapshot; then it is killed."""
    daemon = Daemon(folder / "vmmd")
    try:
        yield daemon
        daemon.put("vm.pause")
        daemon.snapshot(folder / "snapshot")
    finally:
        daemon.kill()
