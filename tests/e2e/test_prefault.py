"""Prefaulting: all of memory is there before the guest runs. It takes its time, so it can be watched and cancelled."""
import concurrent.futures
import contextlib
import time

import pytest

import vmmd
from vmmd import bare

pytestmark = pytest.mark.guest

# A second of work at least, on the fastest of hosts; no test below lets it come to its end.
LARGE = 8 << 30
MEMORY = 64 << 20


def prefaulting(daemon, memory):
    config = daemon.config(bare("idle"), memory=memory)
    config["memory"]["prefault"] = True
    return config


@contextlib.contextmanager
def booting(daemon):
    """A daemon in the midst of a long vm.boot; gives what the boot will answer, and the job."""
    daemon.put("vm.create", prefaulting(daemon, LARGE))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(daemon.raw, "PUT", "vm.boot")
        deadline = time.monotonic() + vmmd.PATIENCE
        while not (jobs := [job for job in daemon.get("vm.info")["jobs"] if job["bytes_done"]]):
            assert not answer.done(), answer.result()
            assert time.monotonic() < deadline, "the boot does not get anywhere"
        yield answer, jobs[0]


def resident(daemon, mapping):
    """(mapped, of those the process's own) bytes of guest RAM whose lines in smaps name `mapping`."""
    sums = {"Rss": 0, "Anonymous": 0}
    inside = False
    for line in open(f"/proc/{daemon.process.pid}/smaps", encoding="ascii"):
        words = line.split()
        if not words[0].endswith(":"):
            inside = line.rstrip().endswith(mapping)
        elif inside and words[0][:-1] in sums:
            sums[words[0][:-1]] += int(words[1]) * 1024
    return sums["Rss"], sums["Anonymous"]


def test_info_and_ping_answer_while_a_boot_takes_long(start):
    daemon = start()
    with booting(daemon) as (answer, job):
        assert (job["kind"], job["phase"], job["bytes_total"]) == ("boot", "prefault", LARGE), job
        slowest = 0
        for _ in range(20):
            begin = time.monotonic()
            daemon.get("vmm.ping")
            info = daemon.get("vm.info")
            slowest = max(slowest, time.monotonic() - begin)
            assert info["state"] == "Created"
        assert slowest < 1, f"{slowest:.3f} s for an answer"
        daemon.put("vm.cancel", {"id": job["id"]})
        answer.result()


def test_a_boot_that_is_cancelled_leaves_the_vm_as_it_was(start):
    daemon = start()
    with booting(daemon) as (answer, job):
        daemon.put("vm.cancel", {"id": job["id"]})
        status, body = answer.result()
    assert status == 409 and f"{job['id']} was cancelled" in " ".join(body), body
    info = daemon.get("vm.info")
    assert info["state"] == "Created" and info["jobs"] == []
    daemon.put("vm.delete")
    daemon.boot(bare("idle")).expect(r"^idle$")


def test_sigterm_ends_a_boot_that_takes_long(start):
    daemon = start()
    with booting(daemon) as (answer, _):
        begin = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - begin < 10
        with contextlib.suppress(Exception):  # an error, or a connection that ended
            answer.result()


@pytest.mark.parametrize("mode", ["cow", "copy"])
@pytest.mark.parametrize("prefault", [False, True], ids=["untouched", "prefault"])
def test_a_restore_with_prefault_has_all_memory_there(start, tmp_path, mode, prefault):
    first = start()
    serial = first.boot(bare("pattern"), memory=MEMORY)
    serial.expect(r"^pattern ready$")
    digest = serial.ask("w 7 2 8", r"^ok (\w+)$")[1]
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap")
    second = start()
    memory = {"memory": {"file": str(tmp_path / "ram")}} if mode == "copy" else {}
    serial = second.restore(tmp_path / "snap", memory_restore_mode=mode, prefault=prefault, resume=False, overrides=memory)
    mapped, own = resident(second, "/ram" if mode == "copy" else "/snap/memory.bin")
    if prefault:
        assert mapped == MEMORY
    else:
        assert mapped < MEMORY / 2
    assert own < 1 << 20, "pages were copied that could be shared"
    second.put("vm.resume")
    assert serial.ask("c 7 2 8", r"^ok (\w+)$")[1] == digest
