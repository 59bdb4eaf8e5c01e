"""What goes on with snapshots behind the VM: digests after link and reflink, the check of verify=lazy, and cancelling."""
import subprocess
import threading
import time

import pytest

import snapshots
import strace
from remote import ok
from vmmd import REMOTE, SANITIZED, bare

pytestmark = pytest.mark.guest

MEMORY = 64 << 20
FIRST, SECOND = "7 2 32", "9 2 40"
SOON = 0.05 + 0.2  # seconds: the promise, and what a busy machine may add; what is waited for lasts 1


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
    with slow_reading(daemon, tmp_path, snap, seconds=30):
        asked = time.monotonic()
        daemon.snapshot(snap, mode="link", pause=True, resume=True)
        assert time.monotonic() - asked < 10
        job = daemon.get("vm.info")["jobs"][0]
        assert (job["kind"], job["phase"], job["bytes_total"]) in [("snapshot", "digests", total) for total in (0, MEMORY)]
        assert daemon.state() == "Running"
        daemon.put("vm.pause")
        daemon.put("vm.resume")
        assert snapshots.judge(snap) == "complete, memory not known"
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


# Cancel

class InBackground(threading.Thread):
    """A vm.snapshot that somebody else cancels."""

    def __init__(self, daemon, folder, **more):
        super().__init__()
        self.daemon, self.body, self.answer = daemon, {"destination_url": f"file://{folder}", **more}, None
        self.start()

    def run(self):
        self.answer = self.daemon.raw("PUT", "vm.snapshot", self.body)


def cancelled(daemon, phase, folder, **more):
    """Cancels a snapshot once it is in that phase; returns how long that took."""
    asked = InBackground(daemon, folder, **more)
    while not (jobs := daemon.get("vm.info")["jobs"]) or jobs[0]["phase"] != phase:
        assert asked.is_alive(), asked.answer
    at = time.monotonic()
    daemon.put("vm.cancel", {"id": jobs[0]["id"]})
    took = time.monotonic() - at
    asked.join()
    status, body = asked.answer
    assert status == 409 and "was cancelled" in " ".join(body), (status, body)
    return took


@pytest.mark.skipif(SANITIZED, reason="sanitizers and ptrace do not go together")
@pytest.mark.parametrize("mode", ["copy", "link"])
@pytest.mark.parametrize("when", ["running", "paused"])
def test_cancel_does_not_wait_for_the_disk(start, tmp_path, mode, when):
    daemon = start()
    serial = in_file(daemon, tmp_path)
    if when == "paused":
        daemon.put("vm.pause")
    (tmp_path / "snaps").mkdir()
    snap = tmp_path / "snaps" / "one"
    with slow(daemon, tmp_path, "fsync"):
        took = cancelled(daemon, "sync", snap, mode=mode, pause=True)
        # At once and while the disk still works: nothing is there, and the VM is what it was.
        assert took < SOON
        assert list(snap.parent.iterdir()) == []
        assert daemon.state() == when.capitalize()
        if when == "paused":
            daemon.put("vm.resume")
        serial.ask(f"c {FIRST}", r"^ok ")
    daemon.snapshot(snap, mode=mode, pause=True, resume=True)
    daemon.jobs_end()
    assert snapshots.judge(snap) == "complete"
    assert sorted(path.name for path in snap.parent.iterdir()) == ["one"]


@pytest.mark.skipif(SANITIZED, reason="sanitizers and ptrace do not go together")
def test_a_daemon_that_ends_does_not_lose_a_cancelled_sync(start, tmp_path):
    daemon = start()
    in_file(daemon, tmp_path)
    (tmp_path / "snaps").mkdir()
    with slow(daemon, tmp_path, "fsync", seconds=1):
        cancelled(daemon, "sync", tmp_path / "snaps" / "one", mode="copy", pause=True)
        assert daemon.stop() == 0
    assert list((tmp_path / "snaps").iterdir()) == []
