"""What goes on with snapshots behind the VM: digests after link and reflink, the check of verify=lazy, and cancelling."""
import json
import subprocess
import threading
import time

import pytest

import snapshots
import strace
from remote import ok
from vmmd import PATIENCE, REMOTE, SANITIZED, UnixConnection, bare, eventually

pytestmark = pytest.mark.guest

MEMORY = 64 << 20
FIRST, SECOND = "7 2 32", "9 2 40"


def in_file(daemon, folder, memory=MEMORY):
    config = daemon.config(bare("pattern"), memory=memory)
    config["memory"]["file"] = str(folder / "ram")
    daemon.put("vm.create", config)
    daemon.put("vm.boot")
    serial = daemon.serial()
    serial.ask(f"w {FIRST}", r"^ok ")
    return serial


def slow(daemon, folder, call, *options, seconds=1):
    """Every `call` takes long, on the VM thread and those that it starts."""
    return strace.Strace(folder / "slow", strace.thread(daemon.process.pid, "vm"), *options, "-e", f"trace={call}", "-e",
                         f"inject={call}:delay_enter={seconds}s", follow=True)


def slow_reading(daemon, folder, snap, seconds):
    return slow(daemon, folder, "pread64", "-P", str(snap / "memory.bin"), seconds=seconds)


def saved(daemon, folder):
    """A snapshot of a fresh pattern guest; its daemon has gone."""
    daemon.boot(bare("pattern"), memory=MEMORY).ask(f"w {FIRST}", r"^ok ")
    daemon.put("vm.pause")
    daemon.snapshot(folder)
    daemon.stop()
    return folder


def damage(folder, offset):
    with open(folder / "memory.bin", "r+b") as memory:
        memory.seek(offset)
        byte = memory.read(1)
        memory.seek(offset)
        memory.write(bytes([byte[0] ^ 0xFF]))


# Digests after link

def test_a_link_snapshot_gets_its_digests_while_the_vm_runs(start, tmp_path):
    daemon = start()
    serial = in_file(daemon, tmp_path)
    answer = daemon.snapshot(tmp_path / "snap", mode="link", pause=True, resume=True)
    assert (answer["mode"], answer["memory_digests"]) == ("link", False)
    serial.ask(f"w {SECOND}", r"^ok ")
    event = daemon.events.wait("vm", "digests-recorded")
    assert event["properties"]["id"] == answer["snapshot_id"]
    assert event["properties"]["path"] == str(tmp_path / "snap")
    assert snapshots.judge(tmp_path / "snap") == "complete"
    ok(None, "snapshot", "verify", tmp_path / "snap")
    damage(tmp_path / "snap", 4 << 20)
    assert snapshots.judge(tmp_path / "snap").startswith("damaged")


@pytest.mark.skipif(SANITIZED, reason="sanitizers and ptrace do not go together")
def test_the_vm_and_other_commands_do_not_wait_for_digests(start, tmp_path):
    """The snapshot is complete without them, says so, and is not hurt by a kill; another command records them."""
    daemon = start()
    in_file(daemon, tmp_path)
    snap = tmp_path / "snap"
    with slow_reading(daemon, tmp_path, snap, seconds=30) as trace:
        asked = time.monotonic()
        daemon.snapshot(snap, mode="link", pause=True, resume=True)
        assert time.monotonic() - asked < 10
        job = daemon.get("vm.info")["jobs"][0]
        assert (job["kind"], job["phase"], job["bytes_total"]) in [("snapshot", "digests", total) for total in (0, MEMORY)]
        assert daemon.state() == "Running"
        daemon.put("vm.pause")
        daemon.put("vm.resume")
        assert snapshots.judge(snap) == "complete, memory not known"
        daemon.process.kill()
        trace.cut()
        daemon.kill()
    assert snapshots.judge(snap) == "complete, memory not known"
    said = subprocess.run([REMOTE, "snapshot", "verify", snap], capture_output=True, text=True, check=False)
    assert said.returncode != 0 and "no digests of its memory yet" in said.stderr
    second = start()
    status, body = second.raw("PUT", "vm.restore", {"source_url": f"file://{snap}", "verify": "full"})
    assert status == 400 and "no digests of its memory" in " ".join(body)
    second.restore(snap).ask(f"c {FIRST}", r"^ok ")
    second.stop()
    assert "can be verified now" in ok(None, "snapshot", "digest", snap)
    assert snapshots.judge(snap) == "complete"
    assert "already" in ok(None, "snapshot", "digest", snap)


@pytest.mark.skipif(SANITIZED, reason="sanitizers and ptrace do not go together")
def test_recording_digests_can_be_cancelled(start, tmp_path):
    daemon = start()
    in_file(daemon, tmp_path)
    with slow_reading(daemon, tmp_path, tmp_path / "snap", seconds=1):
        daemon.snapshot(tmp_path / "snap", mode="link", pause=True, resume=True)
        daemon.put("vm.cancel", {"id": daemon.get("vm.info")["jobs"][0]["id"]})
        assert daemon.get("vm.info")["jobs"] == []
    event = daemon.events.wait("vm", "digests-not-recorded")
    assert "cancelled" in event["properties"]["error"]
    assert snapshots.judge(tmp_path / "snap") == "complete, memory not known"


def test_a_directory_that_is_renamed_at_once_gets_its_digests_all_the_same(start, tmp_path):
    daemon = start()
    in_file(daemon, tmp_path)
    daemon.snapshot(tmp_path / "snap", mode="link", pause=True, resume=True)
    (tmp_path / "snap").rename(tmp_path / "elsewhere")
    daemon.events.wait("vm", "digests-recorded")
    assert snapshots.judge(tmp_path / "elsewhere") == "complete"


# verify=lazy

def test_lazily_verified_memory_is_found_intact_behind_the_vm(start, tmp_path):
    snap = saved(start(), tmp_path / "snap")
    daemon = start()
    daemon.restore(snap, verify="lazy").ask(f"c {FIRST}", r"^ok ")
    event = daemon.events.wait("vm", "restore-verified")
    assert event["properties"]["bytes"] == str(MEMORY)
    info = daemon.get("vm.info")
    assert info["memory_check"] == {"state": "intact", "damaged_bytes": 0, "damaged": []} and info["state"] == "Running"


def test_damage_found_behind_the_vm_pauses_it_and_names_the_ranges(start, tmp_path):
    snap = saved(start(), tmp_path / "snap")
    damage(snap, 5 << 20)
    damage(snap, 20 << 20)
    daemon = start()
    daemon.restore(snap, verify="lazy")
    event = daemon.events.wait("vm", "restore-damaged")
    assert event["properties"] == {"damaged_bytes": str(4 << 20), "ranges": "0x400000+0x200000, 0x1400000+0x200000",
                                   "layers": ""}
    info = daemon.get("vm.info")
    assert info["state"] == "Paused"
    assert info["memory_check"] == {"state": "damaged", "damaged_bytes": 4 << 20, "damaged": [
        {"guest_address": 4 << 20, "length": 2 << 20}, {"guest_address": 20 << 20, "length": 2 << 20}]}
    daemon.put("vm.resume")  # whoever knows better may
    assert daemon.state() == "Running"


@pytest.mark.skipif(SANITIZED, reason="sanitizers and ptrace do not go together")
def test_a_vm_that_is_deleted_while_it_is_checked_leaves_nothing(start, tmp_path):
    snap = saved(start(), tmp_path / "snap")
    daemon = start()
    daemon.get("vmm.ping")
    with slow_reading(daemon, tmp_path, snap, seconds=0.2):
        daemon.restore(snap, verify="lazy", resume=False)
        assert daemon.get("vm.info")["memory_check"]["state"] == "running"
        daemon.put("vm.delete")
        assert not [name for name in snapshots.holdings(daemon.process.pid)["fds"] if str(snap) in name]
    # Nobody holds its lock either.
    daemon.restore(snap, memory_restore_mode="shared")
    assert "memory_check" not in daemon.get("vm.info")


def test_lazy_is_refused_where_it_would_check_nothing(start, tmp_path):
    snap = saved(start(), tmp_path / "snap")
    daemon = start()
    status, body = daemon.raw("PUT", "vm.restore", {"source_url": f"file://{snap}", "verify": "lazy", "memory_restore_mode": "shared"})
    assert status == 400 and "verify=lazy is not possible with mode shared" in " ".join(body)
    assert snapshots.judge(snap) == "complete"


# Progress

@pytest.mark.skipif(SANITIZED, reason="sanitizers and ptrace do not go together")
def test_events_tell_how_far_a_snapshot_is_and_how_fast(start, tmp_path):
    daemon = start()
    in_file(daemon, tmp_path)
    with slow(daemon, tmp_path, "pwrite64", seconds=0.003):  # events are at most ten a second
        answer = daemon.snapshot(tmp_path / "snap", mode="copy", pause=True, resume=True)
    daemon.events.wait("vm", "snapshotted")
    told = [event["properties"] for event in daemon.events.seen if event["event"] == "job-progress"]
    assert len(told) >= 2 and len({event["job"] for event in told}) == 1
    assert {event["phase"] for event in told} == {"memory"}
    done, total, rate = ([int(event[name]) for event in told] for name in ("bytes_done", "bytes_total", "bytes_per_second"))
    assert 0 < done[0] < done[-1] <= total[0] and done == sorted(done)
    assert set(total) == {total[0]} and 30 << 20 <= answer["memory_bytes_written"] <= total[0] <= MEMORY
    assert all(0 < each < total[0] * 1000 for each in rate)


# Cancel

class InBackground(threading.Thread):
    """A vm.snapshot that somebody else cancels."""

    def __init__(self, daemon, folder, **more):
        super().__init__()
        self.daemon, self.body, self.answer = daemon, {"destination_url": f"file://{folder}", **more}, None
        self.start()

    def run(self):
        self.answer = self.daemon.raw("PUT", "vm.snapshot", self.body)


def job_in(daemon, phase, ended=lambda: None):
    """The id of the snapshot's job, once it is in that phase."""
    def found():
        assert not (answer := ended()), answer
        return [job["id"] for job in daemon.get("vm.info")["jobs"] if job["phase"] == phase]
    return eventually(found)[0]


def cancelled(daemon, phase, folder, trace, call, **more):
    """Cancels a snapshot once it is in that phase and waits for that call."""
    asked = InBackground(daemon, folder, **more)
    job = job_in(daemon, phase, lambda: not asked.is_alive() and str(asked.answer))
    eventually(lambda: any(name == call for name, _ in trace.calls()))
    daemon.put("vm.cancel", {"id": job})
    asked.join()
    status, body = asked.answer
    assert status == 409 and "was cancelled" in " ".join(body), (status, body)


def still_waits(trace, call):
    """Of the calls that are made slow not one has come to its end."""
    return not any("(DELAYED)" in rest for name, rest in trace.calls() if name == call)


# Where the guest's memory is written the disk still holds the file; where only its end is awaited, it has no name.
PHASES = [("copy", "memory", "pwrite64"), ("copy", "memory", "sync_file_range"), ("copy", "sync", "fsync"),
          ("link", "sync", "fsync")]
FOREVER = 300  # seconds: longer than any test waits


@pytest.mark.skipif(SANITIZED, reason="sanitizers and ptrace do not go together")
@pytest.mark.parametrize("mode,phase,call", PHASES)
@pytest.mark.parametrize("when", ["running", "paused"])
def test_cancel_does_not_wait_for_the_disk(start, tmp_path, mode, phase, call, when):
    """The disk takes for ever. The answer comes, the VM is what it was, and its guest goes on: all before one call ends."""
    daemon = start()
    serial = in_file(daemon, tmp_path)
    if when == "paused":
        daemon.put("vm.pause")
    elif mode == "link":
        phase = "write-back"  # before it is paused
    (tmp_path / "snaps").mkdir()
    snap = tmp_path / "snaps" / "one"
    with slow(daemon, tmp_path, call, seconds=FOREVER) as trace:
        cancelled(daemon, phase, snap, trace, call, mode=mode, pause=True)
        assert daemon.state() == when.capitalize()
        if when == "paused":
            daemon.put("vm.resume")
        serial.ask(f"c {FIRST}", r"^ok ")
        left = snapshots.hidden(snap)
        assert len(list(snap.parent.iterdir())) == len(left) == (phase == "memory")
        ok(None, "snapshot", "gc", snap.parent)
        assert snapshots.hidden(snap) == left  # it has an owner
        assert still_waits(trace, call), trace.text
        trace.cut()
    daemon.snapshot(snap, mode=mode, pause=True, resume=True)
    daemon.jobs_end()
    assert snapshots.judge(snap) == "complete"
    assert sorted(path.name for path in snap.parent.iterdir()) == ["one"]


def hang_up(daemon, snap, **more):
    """Asks for a snapshot and is gone when it syncs; returns its job."""
    client = UnixConnection(daemon.api, PATIENCE)
    body = {"destination_url": f"file://{snap}", "mode": "copy", "pause": True, "resume": True, **more}
    client.request("PUT", "/api/v1/vm.snapshot", json.dumps(body), {"Content-Type": "application/json"})
    job = job_in(daemon, "sync")
    client.close()
    return job


@pytest.mark.skipif(SANITIZED, reason="sanitizers and ptrace do not go together")
@pytest.mark.parametrize("state", ["Running", "Paused"])
def test_a_client_that_hangs_up_cancels_its_snapshot(start, tmp_path, state):
    daemon = start()
    serial = in_file(daemon, tmp_path)
    if state == "Paused":
        daemon.put("vm.pause")
    (tmp_path / "snaps").mkdir()
    with slow(daemon, tmp_path, "fsync", seconds=FOREVER) as trace:
        job = hang_up(daemon, tmp_path / "snaps" / "one", cancel_on_disconnect=True)
        said = daemon.events.wait("vm", "snapshot-failed")
        assert said["properties"] == {"job": job, "error": f"{job} was cancelled"}
        daemon.jobs_end()
        assert daemon.state() == state
        assert list((tmp_path / "snaps").iterdir()) == []
        if state == "Paused":
            daemon.put("vm.resume")
        serial.ask(f"c {FIRST}", r"^ok ")
        assert still_waits(trace, "fsync"), trace.text
        trace.cut()


@pytest.mark.skipif(SANITIZED, reason="sanitizers and ptrace do not go together")
def test_a_client_that_hangs_up_without_asking_for_that_cancels_nothing(start, tmp_path):
    daemon = start()
    in_file(daemon, tmp_path)
    with slow(daemon, tmp_path, "fsync", seconds=FOREVER) as trace:
        job = hang_up(daemon, tmp_path / "snap")
        daemon.get("vmm.ping")  # on a connection that came after that
        assert [found["id"] for found in daemon.get("vm.info")["jobs"]] == [job]
        trace.cut()
    daemon.events.wait("vm", "snapshotted")
    daemon.jobs_end()
    assert snapshots.judge(tmp_path / "snap") == "complete" and daemon.state() == "Running"


@pytest.mark.skipif(SANITIZED, reason="sanitizers and ptrace do not go together")
@pytest.mark.parametrize("phase,call", [("memory", "pwrite64"), ("sync", "fsync")])
def test_a_daemon_that_ends_does_not_lose_what_was_cancelled(start, tmp_path, phase, call):
    daemon = start()
    in_file(daemon, tmp_path)
    (tmp_path / "snaps").mkdir()
    with slow(daemon, tmp_path, call, seconds=1) as trace:
        cancelled(daemon, phase, tmp_path / "snaps" / "one", trace, call, mode="copy", pause=True)
        assert daemon.stop() == 0
    assert list((tmp_path / "snaps").iterdir()) == []
