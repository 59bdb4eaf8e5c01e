"""Virtio devices under load: a guest in ring 3 that polls its queues, against a host program that does the same I/O.

Host CPU is that of all threads of vmmd but the vCPU's, which is busy polling. What a notification costs the vCPU (its
trap into the host) is in the times, and shown by itself.
"""
import contextlib
import ctypes
import os
import re
import socket
import statistics
import subprocess

from daemon import BUILD, PATIENCE, BenchError, Daemon, guest

FLOOR = str(BUILD / "tests" / "bench" / "io-floor")
DISK_SIZE = 64 << 20  # fits into no cache of the guest's, and into the host's
DEEP = 32
RECEIVED = 10000  # frames; the tap holds twice as many, since its sender does not wait
SHARED_MEMORY = "/dev/shm"
CLONE_NEWNET = 0x40000000
RESULT = re.compile(r"^(done|late) (\d+) us (\d+) latency (\d+) doorbells (\d+) kick (\d+) bad (\d+)\s*$")
libc = ctypes.CDLL(None, use_errno=True)


class Outcome:
    """What one job took, of the guest or of a host program."""

    def __init__(self, count, us, latency, cpu, kick=0, doorbells=0):
        self.rate = count / us * 1e3  # thousands a second
        self.latency = latency / 1e3  # us, median
        self.cpu = cpu / 1e3          # us of host CPU for each
        self.kick = kick / 1e3
        self.doorbells = doorbells / count


def floor(*arguments, **more):
    done = subprocess.run([FLOOR, *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE, **more)
    if done.returncode != 0:
        raise BenchError(f"io-floor {arguments}: {done.stderr.strip()}")
    return floor_outcome(done.stdout)


def floor_outcome(text):
    count, us, latency, cpu = map(int, re.search(r"(\d+) us (\d+) latency (\d+) cpu (\d+)", text).groups())
    return Outcome(count, us, latency, cpu)


class Guest:
    """tests/guest/bare/requests.c and its devices; gives jobs to it."""

    def __init__(self, bench, **devices):
        self.daemon = Daemon(bench.folder).connect()
        path = bench.at(f"serial-{self.daemon.pid}")
        try:
            self.daemon.connection.call("PUT", "vm.create", {
                "memory": {"size": 64 << 20}, "payload": {"kernel": guest("requests")},
                "serial": {"mode": "Socket", "socket": path}, **devices})
            self.line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.line.settimeout(PATIENCE)
            self.line.connect(path)
            self.text = b""
            self.daemon.connection.call("PUT", "vm.boot")
            self.wait("ready")
        except BaseException:
            self.daemon.kill()
            raise

    def wait(self, *starts):
        """The next line that begins so."""
        while True:
            while b"\n" not in self.text:
                data = self.line.recv(4096)
                if not data:
                    raise BenchError("the guest is gone: " + self.daemon.said())
                self.text += data
            line, self.text = self.text.split(b"\n", 1)
            if line.decode().startswith(starts):
                return line.decode().strip()

    def host_cpu(self):
        """Nanoseconds of each thread that is no vCPU. They sleep by now, so the scheduler's count is complete."""
        used = {}
        for thread in os.listdir(f"/proc/{self.daemon.pid}/task"):
            folder = f"/proc/{self.daemon.pid}/task/{thread}/"
            with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(folder + "comm") as name:
                if not name.read().startswith("vcpu"):
                    with open(folder + "schedstat") as stat:
                        used[thread] = int(stat.read().split()[0])
        return used

    def run(self, job, meanwhile=None):
        before = self.host_cpu()
        self.line.sendall(job.encode() + b"\n")
        if meanwhile:
            self.wait("receiving")
            meanwhile()
        answer = self.wait("done", "late", "cannot")
        after = self.host_cpu()
        match = RESULT.match(answer)
        if not match or match[1] != "done" or match[7] != "0":
            raise BenchError(f"{job}: the guest says {answer!r}")
        count, us, latency, doorbells, kick = (int(match[i]) for i in range(2, 7))
        cpu = sum(used - before.get(thread, 0) for thread, used in after.items())
        return Outcome(count, us, latency, cpu / count, kick, doorbells)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.line.close()
        self.daemon.kill()


def add(bench, name, mine, floors, wakes=None, goal=True):
    bench.add(f"{name}: host CPU of each", "us", [o.cpu for o in mine], [f.cpu for f in floors],
              (lambda row: row["ratio"] <= 1.5) if goal else None, "<= 1.5x")
    if wakes:
        # A round trip is two wake-ups. The program needs none, a device that sleeps one for each doorbell.
        wake = statistics.median(w.cpu for w in wakes) / 2
        bench.add(f"  against a floor that is woken as often, {name}", "us", [o.cpu for o in mine],
                  [f.cpu + o.doorbells * wake for f, o in zip(floors, mine)])
    bench.add(f"  a second, in thousands, {name}", "k", [o.rate for o in mine], [f.rate for f in floors],
              best=max)
    bench.add(f"  doorbells for each, {name}", "", [o.doorbells for o in mine])


def disk(bench):
    """4 KiB of a file, against io_uring on a copy of it. io_uring hands requests on tmpfs to threads of the kernel;
    what is in the page cache of ext4, XFS or btrfs it reads at once."""
    if not os.path.isdir(SHARED_MEMORY):
        raise BenchError(f"{SHARED_MEMORY} is missing: a tmpfs is needed")
    wakes = []
    measure_disk(bench, wakes, SHARED_MEMORY, "tmpfs", (("read", 1), ("read", DEEP), ("write", 1), ("write", DEEP)))
    measure_disk(bench, wakes, bench.folder, "page cache", (("read", 1), ("read", DEEP)))
    bench.add("one eventfd round trip between two CPUs", "us", [wake.latency for wake in wakes])
    bench.add("  its CPU: two wake-ups", "us", [wake.cpu for wake in wakes])


def measure_disk(bench, wakes, folder, name, jobs):
    image = os.path.join(folder, f"vmmd-bench-{os.getpid()}.img")
    copy = image + ".floor"
    mine, floors, allowed = {}, {}, {}
    try:
        for path in (image, copy):
            with open(path, "wb") as file:
                file.truncate(DISK_SIZE)
        with Guest(bench, disks=[{"path": image}]) as vm:
            vm.run(f"write {DISK_SIZE // 4096} {DEEP}")  # all of it is there, on either side
            # By the same writes: the page cache of a file that cp wrote is of larger pieces, and read faster.
            floor("ring", "write", copy, DISK_SIZE // 4096, DEEP)
            for _ in range(bench.rounds(15)):
                wakes.append(floor("eventfd", 5000))
                for job in jobs:
                    operation, depth = job
                    count = 3000 if depth == 1 else 50000
                    mine.setdefault(job, []).append(vm.run(f"{operation} {count} {depth}"))
                    floors.setdefault(job, []).append(floor("ring", operation, copy, count, depth))
                    allowed.setdefault(job, []).append(3 * wakes[-1].latency + floors[job][-1].latency)
    finally:
        for path in (image, copy):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    for job in jobs:
        operation, depth = job
        add(bench, f"disk, 4 KiB {operation}, {name}, depth {depth}", mine[job], floors[job], wakes, depth == DEEP)
        if depth == 1:
            bench.add(f"  notification -> completion, {operation}, {name}; floor: 3 eventfd round trips and the I/O",
                      "us", [o.latency for o in mine[job]], allowed[job], lambda row: row["ratio"] <= 1, "<= 1x")
            bench.add(f"  the doorbell's trap alone, {operation}, {name}", "us", [o.kick for o in mine[job]])


@contextlib.contextmanager
def network_namespace():
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if os.geteuid() != 0 or libc.unshare(CLONE_NEWNET) != 0:
            raise BenchError("taps and network namespaces need root")
        yield
    finally:
        libc.setns(before, CLONE_NEWNET)
        os.close(before)


def make_tap(name):
    for command in (("tuntap", "add", name, "mode", "tap", "vnet_hdr"),
                    ("link", "set", name, "txqueuelen", str(2 * RECEIVED)), ("link", "set", name, "up")):
        subprocess.run(["ip", *command], check=True, capture_output=True)


def transmit(tap, size, count):
    subprocess.run([FLOOR, "transmit", tap, str(size), str(count)], check=True, timeout=PATIENCE)


def plain_receive(tap, size, count):
    with subprocess.Popen([FLOOR, "receive", tap, str(count)], stdout=subprocess.PIPE, text=True) as receiver:
        receiver.stdout.readline()  # "receiving"
        transmit(tap, size, count)
        try:
            return floor_outcome(receiver.communicate(timeout=PATIENCE)[0])
        except subprocess.TimeoutExpired:
            receiver.kill()
            raise BenchError("frames were lost on their way to the plain program") from None


def net(bench):
    """Frames to and from a tap, against a program with a tap of its own."""
    with network_namespace():
        make_tap("guest0")
        make_tap("plain0")
        with Guest(bench, net=[{"tap": "guest0"}]) as vm:
            wakes = [floor("eventfd", 5000) for _ in range(3)]
            for size in (64, 1500):
                mine, floors = [], []
                for _ in range(bench.rounds(15)):
                    mine.append(vm.run(f"send 30000 {DEEP} {size}"))
                    floors.append(floor("send", "plain0", size, 30000))
                add(bench, f"net, {size} B to a tap, depth {DEEP}", mine, floors, wakes)
            for size in (64, 1500):
                mine, floors = [], []
                for _ in range(bench.rounds(15)):
                    mine.append(vm.run(f"receive {RECEIVED}", lambda: transmit("guest0", size, RECEIVED)))
                    floors.append(plain_receive("plain0", size, RECEIVED))
                add(bench, f"net, {size} B from a tap", mine, floors)


def interrupts(bench):
    """An MSI for a vCPU: by the ioctl that we use, and by an irqfd with its route."""
    took, floors = [], []
    for _ in range(bench.rounds(15)):
        took.append(floor("msi", 20000))
        floors.append(floor("irqfd", 20000))
    bench.add("an MSI by KVM_SIGNAL_MSI; floor: by an irqfd", "us", [o.latency for o in took],
              [f.latency for f in floors])


ALL = {"disk-io": disk, "net-io": net, "interrupts": interrupts}
