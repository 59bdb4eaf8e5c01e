"""A vmmd to be measured, and the programs it is measured against.

Everything on the measured path is a handful of system calls of Python: 10 to 20 us of its own for a request, about
100 us for starting a process (posix_spawn). The floors that are measured from here carry the same.
"""
import contextlib
import ctypes
import gc
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("VMMD_BUILD", ROOT / "build"))
VMMD = str(BUILD / "daemon" / "vmmd")
FLOOR = str(BUILD / "tests" / "bench" / "floor")
FORMAT = str(BUILD / "tests" / "bench" / "bench-format")
# A program's end of what it reports through: a pipe of its own for each process, under one name. So a snapshot's
# serial port is somewhere else for each clone without overrides.
REPORT_FD = 9
SERIAL = f"/proc/self/fd/{REPORT_FD}"
PATIENCE = 120.0
MIB = 1 << 20


def guest(name):
    return str(BUILD / "tests" / "guest" / f"{name}.elf")


class BenchError(Exception):
    pass


def percentile(values, fraction):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))]


def spawn(program, arguments, report_fd, error_file=os.devnull):
    actions = [(os.POSIX_SPAWN_DUP2, report_fd, REPORT_FD),
               (os.POSIX_SPAWN_OPEN, 2, error_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)]
    return os.posix_spawn(program, [program, *map(str, arguments)], os.environ, file_actions=actions)


def wait_readable(fd, what):
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    if not poller.poll(PATIENCE * 1000):
        raise BenchError(f"{what}: nothing came within {PATIENCE:.0f} s")


def run_floor(*arguments):
    """Microseconds, as the floor program printed them."""
    done = subprocess.run([FLOOR, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise BenchError(f"floor {arguments}: {done.stderr.strip()}")
    return [float(line) for line in done.stdout.split()]


def time_spawn_to_byte(program, arguments):
    """Starts a program; microseconds until the first byte on its descriptor 9."""
    reader, writer = os.pipe()
    try:
        start = time.perf_counter()
        pid = spawn(program, arguments, writer)
        wait_readable(reader, program)
        took = time.perf_counter() - start
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return took * 1e6
    finally:
        os.close(reader)
        os.close(writer)


class Connection:
    """HTTP/1.1 with nothing in it: one request, one answer, over one kept connection."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)

    @staticmethod
    def request(method, path, body=None):
        text = json.dumps(body).encode() if body is not None else b""
        kind = b"Content-Type: application/json\r\n" if body is not None else b""
        return (f"{method} /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\n".encode() + kind
                + b"Content-Length: %d\r\n\r\n" % len(text) + text)

    def answer(self):
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive()
        head, _, body = data.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        while len(body) < length:
            body += self._receive()
        status = int(head.split(b" ", 2)[1])
        if status >= 300:
            raise BenchError(f"{status}: {body.decode(errors='replace')}")
        return json.loads(body) if body else None

    def _receive(self):
        data = self.socket.recv(65536)
        if not data:
            raise BenchError("vmmd closed the connection")
        return data

    def call(self, method, path, body=None):
        self.socket.sendall(self.request(method, path, body))
        return self.answer()

    def time_call(self, method, path, body=None):
        request = self.request(method, path, body)
        start = time.perf_counter()
        self.socket.sendall(request)
        self.answer()
        return (time.perf_counter() - start) * 1e6

    def close(self):
        self.socket.close()


class Watch:
    """inotify(7) on a folder: Python has no module for it. One for all daemons, because the kernel cleans up after one
    that is closed while the next daemon starts, which cost that daemon half a millisecond."""

    MOVED_TO = 0x80
    libc = ctypes.CDLL(None, use_errno=True)
    opened = {}

    @classmethod
    def on(cls, folder):
        if folder not in cls.opened:
            cls.opened[folder] = cls(folder)
        return cls.opened[folder]

    def __init__(self, folder):
        self.fd = self.libc.inotify_init1(os.O_CLOEXEC)
        if self.fd < 0 or self.libc.inotify_add_watch(self.fd, os.fsencode(folder), self.MOVED_TO) < 0:
            raise BenchError(f"inotify on {folder}: {os.strerror(ctypes.get_errno())}")

    def wait(self):
        """Until something was moved into the folder, or long enough to look whether vmmd is still there."""
        if select.select([self.fd], [], [], 1)[0]:
            os.read(self.fd, 4096)


class Daemon:
    """Started, asked and killed. Its guest's COM1, and descriptor 9, is `self.serial`."""

    count = 0

    def __init__(self, folder, *arguments):
        Daemon.count += 1
        self.path = os.path.join(folder, f"{Daemon.count}.sock")
        self.log = os.path.join(folder, f"{Daemon.count}.log")
        self.serial, self.writer = os.pipe()
        self.connection = None
        self.folder_watch = Watch.on(folder)
        self.started = time.perf_counter()
        self.pid = spawn(VMMD, ["--api-socket", self.path, *arguments], self.writer, self.log)

    def connect(self):
        """As soon as it listens, which is when the socket's name appears."""
        deadline = time.perf_counter() + PATIENCE
        while True:
            try:
                self.connection = Connection(self.path)
                return self
            except FileNotFoundError:
                self.folder_watch.wait()
            if time.perf_counter() > deadline or os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                raise BenchError(f"vmmd did not start: {self.said()}") from None

    def said(self):
        return pathlib.Path(self.log).read_text(errors="replace").strip()

    def settle(self):
        """Until it has done what it does after its socket listens (opening KVM): idle, as in use."""
        self.connection.call("GET", "vmm.ping")
        time.sleep(0.02)
        return self

    def time_to_byte(self, method, path, body=None):
        """Microseconds from the request to the guest's next byte; then the answer is awaited."""
        self.drain()
        request = Connection.request(method, path, body)
        poller = select.poll()
        poller.register(self.serial, select.POLLIN)
        poller.register(self.connection.socket, select.POLLIN)
        start = time.perf_counter()
        self.connection.socket.sendall(request)
        answered = False
        while True:
            ready = poller.poll(PATIENCE * 1000)
            now = time.perf_counter()
            if not ready:
                raise BenchError(f"{path}: no byte from the guest; {self.said()}")
            if any(fd == self.serial for fd, _ in ready):
                break
            self.connection.answer()  # raises what went wrong
            answered = True
            poller.unregister(self.connection.socket)
        if not answered:
            self.connection.answer()
        return (now - start) * 1e6

    def drain(self):
        os.set_blocking(self.serial, False)
        try:
            while os.read(self.serial, 65536):
                pass
        except BlockingIOError:
            pass

    def wait_dots(self, count):
        """Reads the guest's output until it has written so many dots."""
        os.set_blocking(self.serial, True)
        while count > 0:
            wait_readable(self.serial, "a dot from the guest")
            count -= os.read(self.serial, 65536).count(b".")

    def rollup(self):
        """/proc/PID/smaps_rollup in KiB."""
        values = {}
        for line in pathlib.Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, value = line.split(":")
            values[name] = int(value.split()[0])
        values["Private"] = values["Private_Clean"] + values["Private_Dirty"]
        return values

    def kill(self):
        if self.connection:
            self.connection.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.serial)
        os.close(self.writer)
        for leftover in (self.path, self.path + ".lock"):
            if os.path.exists(leftover):
                os.unlink(leftover)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def vm_config(mib, words, memory=None, devices=None):
    return {"memory": {"size": mib * MIB, **(memory or {})},
            "payload": {"kernel": guest("firstbyte"), "cmdline": words},
            "serial": {"mode": "File", "file": SERIAL}, **(devices or {})}


class Bench:
    """One run: where it works, and what it found."""

    def __init__(self, folder, quick):
        self.folder = tempfile.mkdtemp(prefix="vmmd-bench-", dir=folder)
        self.quick = quick
        self.rows = []
        self.snapshots = {}

    def rounds(self, full):
        return max(3, full // 5) if self.quick else full

    def at(self, name):
        return os.path.join(self.folder, name)

    def close(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, name, unit, values, floor=None, goal=None, goal_text="", tail=False, best=min):
        """`goal(row)` says whether the figure meets `goal_text`; `best` is max where more is better."""
        row = {"figure": name, "unit": unit, "median": statistics.median(values), "best": best(values),
               "count": len(values)}
        if tail:
            row["p99"] = percentile(values, 0.99)
        if floor:
            row["floor"] = statistics.median(floor)
            row["ratio"] = row["median"] / row["floor"]
            row["best_ratio"] = row["best"] / best(floor)
        if goal:
            row["goal"] = goal_text
            row["met"] = bool(goal(row))
        self.rows.append(row)
        return row

    def source(self, mib, words, memory=None, devices=None):
        """A running guest that has touched what it shall: a daemon to snapshot."""
        daemon = Daemon(self.folder).connect()
        daemon.connection.call("PUT", "vm.create", vm_config(mib, words, memory, devices))
        daemon.connection.call("PUT", "vm.boot")
        daemon.wait_dots(20)  # behind the first it measures its clock: 4 ms that are no restore's
        return daemon

    def snapshot(self, name, mib, words, devices=None):
        """The path of a snapshot made once in this run."""
        if name not in self.snapshots:
            path = self.at(name)
            with self.source(mib, words, devices=devices) as daemon:
                daemon.connection.call("PUT", "vm.pause")
                daemon.connection.call("PUT", "vm.snapshot",
                                       {"destination_url": f"file://{path}", "mode": "copy"})
            self.snapshots[name] = path
        return self.snapshots[name]


@contextlib.contextmanager
def time_sharing():
    """Real-time threads do not share a CPU for 100 ms: not for what is about threads that do."""
    policy = os.sched_getscheduler(0)
    if policy == os.SCHED_OTHER:
        yield
        return
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.setpriority(os.PRIO_PROCESS, 0, -10)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, os.sched_param(1))


def come_first(realtime):
    """On a machine that others use too: before them, if we may. What we start inherits it. How, in words."""
    gc.disable()  # Python's own pauses stay out of the figures
    try:
        if realtime:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
            return "real-time priority"
        os.setpriority(os.PRIO_PROCESS, 0, -10)
        return "priority -10"
    except PermissionError:
        return "normal priority"
