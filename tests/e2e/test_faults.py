"""Faults in every system call of snapshot and restore (faults.py says what must hold), and the order of durability.

A sample runs here; VMMD_FAULTS=full (faults_full.sh) tries every point, VMMD_FAULTS=100 so many of each operation's.
VMMD_FAULTS_SEED chooses another sample.
"""
import contextlib
import os
import re
import subprocess

import pytest

import faults
import snapshots
import strace
from vmmd import SANITIZED, bare

pytestmark = pytest.mark.skipif(SANITIZED, reason="sanitizers and ptrace do not go together")

WANTED = os.environ.get("VMMD_FAULTS", "12")  # points of each operation
SEED = int(os.environ.get("VMMD_FAULTS_SEED", 1))


@pytest.mark.parametrize("kind", faults.OPERATIONS, ids=lambda kind: kind.name)
def test_every_fault_leaves_all_or_nothing(kind, tmp_path, capsys):
    result = faults.run(kind(tmp_path), None if WANTED == "full" else int(WANTED), SEED)
    with capsys.disabled():
        print(f"\nfaults in {kind.name}: {result.tried} of {result.possible} points tried (seed {SEED}), "
              f"{result.happened} happened, {len(result.failures)} failures")
    assert not result.failures, "\n".join(result.failures)
    # Which thread writes what is chance, so some points are not met; the faults that matter most have a test of their own.
    assert result.happened >= result.tried / 2, "most points were never reached: has the trace changed?"


@pytest.mark.parametrize("point,kind", [
    ("renameat2#1:KILL", faults.Copy), ("renameat2#1:EIO", faults.Copy), ("fsync#1:EIO", faults.Copy),
    ("fsync#7:KILL", faults.Copy), ("pwrite64#1:ENOSPC+", faults.Copy), ("linkat#1:EIO", faults.Link),
    ("ioctl#1:EIO", faults.Running), ("clone3#1:EAGAIN", faults.Copy), ("clone3#1:EAGAIN", faults.Cow),
    ("rt_sigaction#1:EIO", faults.Cow), ("eventfd2#1:EIO", faults.Cow), ("epoll_create1#1:ENOMEM", faults.Cow)])
def test_faults_that_must_be_met_every_time(point, kind, tmp_path):
    result = faults.run(kind(tmp_path), only=point)
    assert result.happened >= 1 and not result.failures, (result.possible, result.failures)


def test_a_full_disk_while_cleaning_up_leaves_only_what_the_next_snapshot_removes(start, tmp_path):
    """Two faults: the snapshot fails, and what it leaves cannot be removed either."""
    daemon = start()
    serial = daemon.boot(bare("pattern"), memory=faults.MEMORY)
    serial.ask(f"w {faults.FIRST}", r"^ok ")
    daemon.put("vm.pause")
    snap = tmp_path / "snap"
    with strace.Strace(tmp_path / "trace", strace.thread(daemon.process.pid, "vm"), "-e", "inject=fsync:error=EIO:when=1",
                       "-e", "inject=unlinkat:error=EIO", follow=True):
        status, body = daemon.raw("PUT", "vm.snapshot", {"destination_url": f"file://{snap}"})
    assert status >= 400 and "Input/output error" in " ".join(body), (status, body)
    assert snapshots.judge(snap) == "absent" and len(snapshots.hidden(snap)) == 1
    daemon.snapshot(snap)
    assert snapshots.judge(snap) == "complete" and snapshots.hidden(snap) == []


@contextlib.contextmanager
def short_io(daemon, most):
    """Every read and write of a file is short, or interrupted."""
    tool = subprocess.Popen([snapshots.TOOLS / "short-io", str(daemon.process.pid), str(most)], stdout=subprocess.PIPE, text=True)
    try:
        assert tool.stdout.readline() == "attached\n"
        yield
    finally:
        tool.terminate()
        said = tool.communicate()[0]
    shortened, interrupted = (int(count) for count in re.findall(r"\d+", said))
    assert shortened >= 4 and interrupted >= 1, said


@pytest.mark.parametrize("most", [1000, 70000])
@pytest.mark.parametrize("mode", ["cow", "copy"])
def test_short_and_interrupted_transfers_lose_nothing(start, tmp_path, mode, most):
    first = start()
    serial = first.boot(bare("pattern"), memory=faults.MEMORY)
    serial.ask(f"w {faults.FIRST}", r"^ok ")
    first.put("vm.pause")
    with short_io(first, most):
        first.snapshot(tmp_path / "snap")
    assert snapshots.judge(tmp_path / "snap") == "complete"
    first.put("vm.resume")
    serial.ask(f"c {faults.FIRST}", r"^ok ")
    second = start()
    second.get("vmm.ping")
    with short_io(second, most):
        serial = second.restore(tmp_path / "snap", memory_restore_mode=mode, verify="full")
    serial.ask(f"c {faults.FIRST}", r"^ok ")


def durable_order(calls, name):
    """Walks the trace as a disk would: what is durable when `name` appears, and when its name is."""
    paths, dirty, renamed, parent_synced = {}, set(), False, False
    for call, rest in calls:
        result = re.search(r"= (-?\d+)", rest)
        result = int(result[1]) if result else -1
        first = re.match(r"(\w+)", rest)
        fd = int(first[1]) if first and first[1].isdigit() else None
        opened = re.match(r'(?:AT_FDCWD|\d+), "([^"]*)", ([A-Z_|]+)', rest)
        if call == "openat" and result >= 0 and opened:
            paths[result] = opened[1]
            if "O_CREAT" in opened[2]:
                assert not renamed, f"{opened[1]} is made after the rename"
                dirty |= {opened[1], "hidden"}
            elif opened[1].startswith(f".{name}.vmmd-"):
                paths[result] = "hidden"
        elif call in ("pwrite64", "pwritev", "pwritev2", "write", "ftruncate", "fsetxattr", "fallocate") and result >= 0:
            if paths.get(fd, "").endswith((".bin", ".json", ".digests")):
                assert not renamed, f"{call} of {paths[fd]} after the rename"
                dirty.add(paths[fd])
        elif call == "linkat" and result == 0:
            assert not renamed
            dirty |= {"hidden", "memory.bin"}
            linked = re.match(r'(?:AT_FDCWD, "/proc/self/fd/)?(\d+)', rest)
            paths[int(linked[1])] = "memory.bin"
        elif call == "fcntl" and "F_DUPFD" in rest and fd in paths:
            paths[result] = paths[fd]
        elif call == "fchmod" and paths.get(fd) == "hidden":
            dirty.add("hidden")
        elif call == "fsync" and result == 0:
            if renamed and paths.get(fd, "").startswith("/"):
                parent_synced = True
            if paths.get(fd) == "hidden":
                assert dirty <= {"hidden"}, f"the directory is synced before {dirty}"
            dirty.discard(paths.get(fd))
        elif call in ("renameat", "renameat2") and f'"{name}"' in rest and result == 0:
            assert not dirty, f"renamed while {dirty} may still be lost"
            renamed = True
    return renamed, parent_synced


@pytest.mark.parametrize("kind", [faults.Copy, faults.Link, faults.Clone], ids=lambda kind: kind.name)
def test_everything_is_durable_before_the_name_and_the_name_before_the_answer(kind, tmp_path):
    operation = kind(tmp_path)
    operation.enter()
    try:
        daemon = operation.prepare()
        # All threads: the copying ones write too.
        with strace.Strace(operation.room / "trace", daemon.process.pid, follow=True) as trace:
            status, body = operation.ask(daemon)
        assert status < 300, body
        calls = trace.calls()
        answer = next(i for i, (call, rest) in enumerate(calls) if call in ("sendmsg", "sendto", "writev") and "HTTP/1.1 20" in rest)
        assert durable_order(calls[:answer], "snap") == (True, True)
    finally:
        operation.leave()
