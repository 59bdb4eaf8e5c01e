"""Faults in the system calls of snapshot and restore: what is injected where, and what must hold afterwards.

An operation runs once under strace to learn which system calls its VM thread and the threads that work for it alone
make; each (call, n-th occurrence, fault) is a point. At each point a fresh vmmd with a fresh guest meets that fault, and then
  - the destination is as it was or a complete snapshot, by two readers, and a new vmmd restores it with its pattern;
  - vmmd has answered and its VM is in the state it had and goes on, or the process is gone;
  - the same command without the fault succeeds afterwards, and nothing hidden is left.
"""
import dataclasses
import http.client
import os
import random
import shutil
import subprocess

import snapshots
import strace
import vmmd
from vmmd import bare

MEMORY = 8 << 20
FIRST, SECOND = "7 2 6", "9 2 8"  # patterns: seed and MiB from, to

ERRORS = ["ENOSPC", "EIO", "EINTR", "ENOMEM"]
# Calls whose failure no kernel knows, or where strace's fault is none: it leaves the call out, and a thread that does
# not sleep on its futex or keeps its signals blocked has not met an error but another program.
ONLY = {
    "futex": [], "rt_sigprocmask": [], "rseq": [], "set_robust_list": [], "getpid": [], "gettid": [], "exit": [],
    "rt_sigreturn": [], "exit_group": [], "munmap": ["ENOMEM"], "mmap": ["ENOMEM"], "mprotect": ["ENOMEM"], "clone3": ["EAGAIN", "ENOMEM"],
    "madvise": ["ENOMEM"], "uname": [], "brk": [], "restart_syscall": [], "prctl": [],
}
LASTING = {"pwrite64": ["ENOSPC+", "EIO+"], "openat": ["EMFILE+", "EIO+"], "fsync": ["EIO+"], "mkdirat": ["EDQUOT"], "pread64": ["EIO+"],
           "ftruncate": ["EFBIG"], "unlinkat": ["EIO+"]}


@dataclasses.dataclass(frozen=True)
class Point:
    call: str
    n: int
    fault: str  # an errno, an errno with + (that call and all later ones), or KILL

    def __str__(self):
        return f"{self.call}#{self.n}:{self.fault}"

    @property
    def options(self):
        when = f"when={self.n}" + ("+" if self.fault.endswith("+") else "")
        what = "signal=KILL" if self.fault == "KILL" else f"error={self.fault.rstrip('+')}"
        return ["-e", f"trace={self.call}", "-e", f"inject={self.call}:{what}:{when}"]


def points_of(calls):
    counts, points = {}, []
    for call, rest in calls:
        counts[call] = n = counts.get(call, 0) + 1
        faults = ONLY.get(call, ERRORS) + LASTING.get(call, [])
        if call == "epoll_ctl" and ("EPOLL_CTL_MOD" in rest or "EPOLLPRI" not in rest):
            # Of a descriptor that is there: cannot fail. And Asio's own two descriptors: it looks at no error.
            faults = []
        if call == "write" and '"\\1\\0\\0\\0\\0\\0\\0\\0"' in rest:
            faults = []  # to an eventfd: cannot fail
        points += [Point(call, n, fault) for fault in [*faults, "KILL"]]
    return points


HELPERS = ("sync", "background")  # threads that the VM thread starts for itself, by name


class Failure(Exception):
    pass


def need(condition, text):
    if not condition:
        raise Failure(text)


class Operation:
    """One command that faults are injected into. Subclasses say how to get there and what must hold then."""
    name = ""

    def __init__(self, folder):
        self.folder = folder / self.name
        self.count = 0
        self.daemons = []

    def daemon(self):
        daemon = vmmd.Daemon(self.room / f"vmmd{len(self.daemons)}")
        self.daemons.append(daemon)
        return daemon

    def enter(self):
        """A fresh room for one point."""
        self.count += 1
        self.room = self.folder / f"{self.count}"
        self.room.mkdir(parents=True)
        self.daemons = []

    def leave(self):
        for daemon in self.daemons:
            daemon.kill()
        shutil.rmtree(self.room)

    def learn(self):
        """[(point, follow)] of all calls between request and answer: those of the VM thread are met on that thread
        alone, those of the threads that it starts for its work wherever they happen."""
        self.enter()
        try:
            daemon = self.prepare()
            vm = strace.thread(daemon.process.pid, "vm")
            with strace.Strace(self.room / "trace", vm, follow=True) as trace:
                status, body = self.ask(daemon)
                helpers = [tid for tid in trace.threads() if snapshots.thread_name(daemon.process.pid, tid) in HELPERS]
            need(status < 300, f"without any fault: {status} {body}")
            self.judge(daemon, None, status, body)
            points = [(point, False) for point in points_of(trace.calls(vm))]
            for tid in helpers:
                points += [(point, True) for point in points_of(trace.calls(tid))]
            return list(dict.fromkeys(points))
        finally:
            self.leave()

    def try_point(self, point, follow=False):
        """True if the fault happened; raises Failure or AssertionError when vmmd does not live up to it."""
        self.enter()
        try:
            daemon = self.prepare()
            with strace.Strace(self.room / "trace", strace.thread(daemon.process.pid, "vm"), *point.options,
                               follow=follow) as trace:
                try:
                    status, body = self.ask(daemon)
                except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
                    need(not isinstance(error, TimeoutError), "vmmd never answered")
                    status, body = None, None
                if status is None:
                    daemon.wait_exit(10)
            happened = "(INJECTED)" in trace.text or (point.fault == "KILL" and status is None)
            if point.fault != "KILL" and status is None and point.call not in ("mmap", "mprotect", "munmap", "madvise", "brk"):
                # Out of memory in malloc may end the process; nothing else that the kernel answers may.
                raise Failure(f"vmmd ended, with {daemon.process.returncode}: {daemon.log.read_text()[-1500:]}")
            try:
                self.judge(daemon, point, status, body)
            except ConnectionError:
                if point.fault != "KILL" or daemon.wait_exit(10) != -9:
                    raise
                self.judge(daemon, point, None, None)  # killed just after it had answered
                happened = True
            return happened
        finally:
            self.leave()

    def prepare(self):
        raise NotImplementedError

    def ask(self, daemon):
        raise NotImplementedError

    def judge(self, daemon, point, status, body):
        raise NotImplementedError

    def restores(self, folder):
        """A new vmmd gives the guest of FIRST back."""
        daemon = self.daemon()
        daemon.restore(folder).ask(f"c {FIRST}", r"^ok ")
        daemon.kill()


class Snapshot(Operation):
    before = "Paused"
    body = {}
    config = {}

    @property
    def snap(self):
        return self.room / "snap"

    def prepare(self):
        daemon = self.daemon()
        self.serial = daemon.boot(bare("pattern"), memory=MEMORY)
        self.serial.ask(f"w {FIRST}", r"^ok ")
        daemon.put("vm.pause")
        return daemon

    def ask(self, daemon):
        return daemon.raw("PUT", "vm.snapshot", {"destination_url": f"file://{self.snap}", **self.body}, timeout=20)

    def judge(self, daemon, point, status, body):
        now = snapshots.judge(self.snap)
        need(now in ("absent", "empty") or now.startswith("complete"), f"the destination is {now}")
        snapshots.commands_agree(self.snap, now)
        if status is None:
            self.after_death(now)
            return
        # The snapshot is there, and what failed is waking the guest: the answer says so, and vm.resume can be tried.
        asleep = status >= 300 and "the VM stays paused after vm.snapshot" in body
        if status < 300:
            need(now.startswith("complete"), f"{status}, but the destination is {now}")
            state = "Running" if self.body.get("resume") else "Paused"
        else:
            need(body and all(isinstance(text, str) and text for text in body), f"no reason given: {body}")
            need(now == self.nothing or asleep, f"{status} {body}, but the destination is {now}")
            state = "Paused" if asleep else self.before
            need(not snapshots.hidden(self.snap) or point.call in ("unlinkat", "getdents64", "openat"),
                 f"{status} {body}, and {snapshots.hidden(self.snap)} stays")
        found = daemon.state()
        need(found == state, f"{status} {body}; the VM is {found}, not {state}")
        if state == "Paused":
            daemon.put("vm.resume")
        self.serial.ask(f"c {FIRST}", r"^ok ")
        self.serial.ask(f"w {SECOND}", r"^ok ")
        if now.startswith("complete"):
            self.check_kept(self.snap)
            self.snap.rename(self.room / "first")
        self.take_again(daemon)
        self.serial.ask(f"c {SECOND}", r"^ok ")

    nothing = "absent"

    def check_kept(self, folder):
        """What the guest has written since is not in it."""
        need(snapshots.judge(folder).startswith("complete"), "the snapshot changed when the guest went on")
        self.restores(folder)

    def take_again(self, daemon):
        daemon.put("vm.pause")
        daemon.snapshot(self.snap)
        now = snapshots.judge(self.snap)
        need(now.startswith("complete"), f"the next snapshot is {now}")
        need(not snapshots.hidden(self.snap), f"after the next snapshot {snapshots.hidden(self.snap)} stays")
        daemon.put("vm.resume")

    def after_death(self, now):
        if now.startswith("complete"):
            self.check_kept(self.snap)
            self.snap.rename(self.room / "first")
        daemon = self.daemon()
        self.serial = daemon.boot(bare("pattern"), memory=MEMORY)
        self.serial.ask(f"w {SECOND}", r"^ok ")
        self.take_again(daemon)


class Copy(Snapshot):
    name = "copy"


class Running(Snapshot):
    """One command pauses, saves and resumes."""
    name = "running"
    before = "Running"
    body = {"pause": True, "resume": True}

    def prepare(self):
        daemon = super().prepare()
        daemon.put("vm.resume")
        return daemon


class Link(Snapshot):
    name = "link"
    body = {"mode": "link"}

    def prepare(self):
        daemon = self.daemon()
        self.serial = self.boot_in_file(daemon)
        self.serial.ask(f"w {FIRST}", r"^ok ")
        daemon.put("vm.pause")
        return daemon

    def ask(self, daemon):
        status, body = super().ask(daemon)
        if status < 300:
            daemon.jobs_end()  # the digests
        return status, body

    def boot_in_file(self, daemon):
        config = daemon.config(bare("pattern"), memory=MEMORY)
        config["memory"]["file"] = str(self.room / "ram")
        daemon.put("vm.create", config)
        daemon.put("vm.boot")
        return daemon.serial()

    def judge(self, daemon, point, status, body):
        super().judge(daemon, point, status, body)
        if status is None:
            return
        # Its memory file is its own again, or a new one: nothing of a snapshot that failed clings to it.
        daemon.put("vm.reboot")
        self.serial.expect(r"pattern ready$")
        self.serial.ask(f"w {FIRST}", r"^ok ")
        need(not (self.room / "ram").samefile(self.snap / "memory.bin"), "the VM that booted again lives in its snapshot")
        need(snapshots.judge(self.snap).startswith("complete"), "the snapshot changed when its VM booted again")

    def after_death(self, now):
        subprocess.run([vmmd.REMOTE, "snapshot", "gc", self.room], check=True, capture_output=True)
        if now.startswith("complete"):
            (self.room / "ram").unlink()  # the snapshot's, which has a name of its own
        daemon = self.daemon()
        self.serial = self.boot_in_file(daemon)
        self.serial.ask(f"w {SECOND}", r"^ok ")
        if now.startswith("complete"):
            self.check_kept(self.snap)
            self.snap.rename(self.room / "first")
        self.take_again(daemon)


class Clone(Snapshot):
    """A restored VM, copy-on-write over its snapshot, saved into an empty directory that is there."""
    name = "clone"
    nothing = "empty"

    def prepare(self):
        daemon = super().prepare()
        daemon.snapshot(self.room / "base")
        daemon.kill()
        daemon = self.daemon()
        self.serial = daemon.restore(self.room / "base")
        self.serial.ask("w 8 6 7", r"^ok ")
        daemon.put("vm.pause")
        self.snap.mkdir()
        return daemon


class Restore(Operation):
    body = {}
    state = "Running"

    def __init__(self, folder):
        super().__init__(folder)
        self.enter()
        daemon = self.daemon()
        daemon.boot(bare("pattern"), memory=MEMORY).ask(f"w {FIRST}", r"^ok ")
        daemon.put("vm.pause")
        self.base = self.folder / "base"
        daemon.snapshot(self.base)
        self.stamps = snapshots.stamps(self.base)
        self.leave()

    def prepare(self):
        daemon = self.daemon()
        daemon.get("vmm.ping")
        self.held = snapshots.idle_holdings(daemon.process.pid)
        return daemon

    def request(self, daemon):
        return {"source_url": f"file://{self.base}", "resume": self.state == "Running",
                "overrides": {"serial": {"mode": "Socket", "socket": str(daemon.serial_path)}}, **self.body}

    def ask(self, daemon):
        return daemon.raw("PUT", "vm.restore", self.request(daemon), timeout=20)

    def judge(self, daemon, point, status, body):
        need(snapshots.stamps(self.base) == self.stamps, "the snapshot was changed by restoring it")
        if status is None:
            daemon = self.daemon()
        elif status >= 300:
            need(body and all(isinstance(text, str) and text for text in body), f"no reason given: {body}")
            found, answer = daemon.raw("GET", "vm.info")
            need(found == 404, f"{status} {body}, but vm.info answers {found} {answer}")
            need(not daemon.serial_path.exists(), f"{status} {body}, and {daemon.serial_path.name} stays")
            if point.call not in ("close", "munmap"):  # strace left the closing itself out
                snapshots.settles(daemon.process.pid, self.held)
        if status is None or status >= 300:
            status, body = self.ask(daemon)
            need(status < 300, f"the same without fault: {status} {body}")
        found = daemon.state()
        need(found == self.state, f"the VM is {found}, not {self.state}")
        if found == "Paused":
            daemon.put("vm.resume")
        serial = daemon.serial()
        serial.ask(f"c {FIRST}", r"^ok ")
        serial.ask(f"w {SECOND}", r"^ok ")
        need(snapshots.stamps(self.base) == self.stamps, "the snapshot was changed by the restored guest")


class Cow(Restore):
    name = "cow"


class Read(Restore):
    name = "read"
    body = {"memory_restore_mode": "copy", "verify": "full"}
    state = "Paused"


class Verified(Restore):
    name = "verified"
    body = {"memory_restore_mode": "cow", "verify": "full"}
    state = "Paused"


CONSUMED = "became the live memory of a shared restore"


class Shared(Operation):
    """memory.bin becomes live RAM: the snapshot is whole, or says that it is consumed; never anything between."""
    name = "shared"

    def prepare(self):
        self.base = self.room / "base"
        daemon = self.daemon()
        daemon.boot(bare("pattern"), memory=MEMORY).ask(f"w {FIRST}", r"^ok ")
        daemon.put("vm.pause")
        daemon.snapshot(self.base)
        daemon.kill()
        daemon = self.daemon()
        daemon.get("vmm.ping")
        self.held = snapshots.idle_holdings(daemon.process.pid)
        return daemon

    def ask(self, daemon):
        override = {"serial": {"mode": "Socket", "socket": str(daemon.serial_path)}}
        return daemon.raw("PUT", "vm.restore", {"source_url": f"file://{self.base}", "memory_restore_mode": "shared",
                                                "resume": True, "overrides": override}, timeout=20)

    def judge(self, daemon, point, status, body):
        now = snapshots.judge(self.base)
        need(now == "complete" or CONSUMED in now, f"the snapshot is {now}")
        if status is not None and status < 300:
            need(CONSUMED in now, f"its memory is in use, but the snapshot is {now}")
            serial = daemon.serial()
            serial.ask(f"c {FIRST}", r"^ok ")
            serial.ask(f"w {SECOND}", r"^ok ")
            daemon.kill()
        elif status is not None:
            need(body and all(body), f"no reason given: {body}")
            need(daemon.raw("GET", "vm.info")[0] == 404, f"{status} {body}, but there is a VM")
            if point.call not in ("close", "munmap"):
                snapshots.settles(daemon.process.pid, self.held)
        if now == "complete":
            self.restores(self.base)
        else:
            status, body = self.ask(self.daemon())
            need(status == 400 and CONSUMED in " ".join(body), f"restored a second time: {status} {body}")


OPERATIONS = [Copy, Running, Link, Clone, Cow, Read, Verified, Shared]


@dataclasses.dataclass
class Result:
    possible: int = 0
    tried: int = 0
    happened: int = 0
    failures: list = dataclasses.field(default_factory=list)


# What other threads do for the operations, in every thread at once: those that copy and verify.
ELSEWHERE = [Point(call, n, fault) for call in ("pwrite64", "pread64", "sync_file_range") for n in (1, 2)
             for fault in ("EIO", "ENOSPC", "KILL")]


def run(operation, sample=None, seed=1, only=""):
    """Tries all points, or a sample of them. Points are never lost silently: the result counts them."""
    result = Result()
    points = list(dict.fromkeys(operation.learn() + [(point, True) for point in ELSEWHERE]))
    points = [(point, follow) for point, follow in points if only in str(point)]
    result.possible = len(points)
    if sample is not None and sample < len(points):
        points = random.Random(seed).sample(points, sample)
    for point, follow in points:
        result.tried += 1
        try:
            result.happened += operation.try_point(point, follow)
        except (Failure, AssertionError, vmmd.ApiError, OSError, http.client.HTTPException) as failure:
            result.failures.append(f"{operation.name} {point}: {type(failure).__name__}: {failure}")
            if os.environ.get("VMMD_FAULTS_VERBOSE"):
                print(result.failures[-1], flush=True)
    return result
