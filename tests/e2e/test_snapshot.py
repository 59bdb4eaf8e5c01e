"""Snapshot, kill -9, restore: bare-metal guests whose whole state can be checked."""
import hashlib
import pathlib
import stat
import threading
import time

import pytest

from test_lifecycle import counters
from vmmd import bare, eventually

pytestmark = pytest.mark.guest

MASK = (1 << 64) - 1


def lcg(steps):
    """x = x * A + C from 1, `steps` times, by squaring."""
    a, c, x = 6364136223846793005, 1442695040888963407, 1
    while steps:
        if steps & 1:
            x = (x * a + c) & MASK
        a, c = a * a & MASK, (a + 1) * c & MASK
        steps >>= 1
    return x


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in pathlib.Path(folder).iterdir()}


def snapshot_and_kill(daemon, folder):
    daemon.put("vm.pause")
    daemon.snapshot(folder)
    daemon.kill()


def test_a_restored_guest_goes_on_counting(start, tmp_path):
    first = start()
    serial = first.boot(bare("tick"))
    serial.expect(r"^tick 20$")
    snapshot_and_kill(first, tmp_path / "snap")
    before = int(serial.text.rsplit("tick ", 1)[1].split("\n")[0] or 0)

    second = start()
    serial = second.restore(tmp_path / "snap")
    after = int(serial.expect(r"^tick (\d+)$")[1])
    assert before <= after <= before + 2
    serial.expect(f"^tick {after + 1}$")
    serial.ask("hello again", r"^echo hello again$")
    assert second.state() == "Running"


def test_restore_leaves_the_vm_paused_unless_asked_to_resume(start, tmp_path):
    first = start()
    first.boot(bare("tick")).expect(r"^tick 3$")
    snapshot_and_kill(first, tmp_path / "snap")
    second = start()
    serial = second.restore(tmp_path / "snap", resume=False)
    assert second.state() == "Paused"
    second.put("vm.resume")
    serial.ask("now", r"^echo now$")


def test_the_directory_is_what_the_design_says(start, tmp_path):
    daemon = start()
    daemon.boot(bare("tick"), memory=64 << 20).expect(r"^tick 3$")
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snap")
    files = {path.name: path for path in (tmp_path / "snap").iterdir()}
    assert sorted(files) == ["config.json", "manifest.bin", "memory.bin", "memory.digests", "state.bin"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files.values())
    memory = files["memory.bin"].stat()
    assert memory.st_size == 64 << 20
    assert memory.st_blocks * 512 < 2 << 20, "zero pages must be holes"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_snapshotted_vm_resumes(start, tmp_path):
    daemon = start()
    serial = daemon.boot(bare("tick"))
    serial.expect(r"^tick 3$")
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snap")
    daemon.put("vm.resume")
    serial.ask("going on", r"^echo going on$")


def test_registers_and_arithmetic_survive_at_any_moment(start, tmp_path):
    """The number cruncher's state is nothing but registers: general, SSE and x87."""
    steps = 4194304
    daemon = start()
    serial = daemon.boot(bare("cruncher"))
    for generation in range(3):
        n = int(serial.expect(r"^hash (\d+) ")[1])
        snapshot_and_kill(daemon, tmp_path / f"snap{generation}")
        daemon = start()
        serial = daemon.restore(tmp_path / f"snap{generation}")
        for _ in range(3):
            match = serial.expect(r"^hash (\d+) (\w+) (\w+) (\w+)$")
            at = int(match[1])
            assert at > n
            n = at
            assert int(match[2], 16) == lcg(n * steps), f"general registers at {n}"
            assert int(match[3], 16) == 3 * n * steps, f"SSE at {n}"
            assert int(match[4], 16) == 5 * n, f"x87 at {n}"


@pytest.mark.parametrize("memory", [64 << 20, 5 << 30], ids=["64MiB", "5GiB"])
def test_memory_comes_back_byte_for_byte(start, tmp_path, memory):
    parts = ["2 64"] if memory < 1 << 30 else ["2 16", "3060 3072", "4096 4120"]
    first = start()
    serial = first.boot(bare("pattern"), memory=memory)
    serial.expect(r"^pattern ready$")
    written = [serial.ask(f"w {seed} {part}", r"^ok (\w+)$")[1] for seed, part in enumerate(parts, 7)]
    snapshot_and_kill(first, tmp_path / "snap")
    second = start()
    serial = second.restore(tmp_path / "snap")
    read = [serial.ask(f"c {seed} {part}", r"^ok (\w+)$")[1] for seed, part in enumerate(parts, 7)]
    assert read == written


def test_a_restored_guest_never_writes_into_the_snapshot(start, tmp_path):
    first = start()
    serial = first.boot(bare("pattern"))
    serial.expect(r"^pattern ready$")
    serial.ask("w 1 2 32", r"^ok")
    snapshot_and_kill(first, tmp_path / "snap")
    before = digests(tmp_path / "snap")
    second = start()
    second.restore(tmp_path / "snap").ask("w 2 2 64", r"^ok")
    second.stop()
    assert digests(tmp_path / "snap") == before
    third = start()
    third.restore(tmp_path / "snap").ask("c 1 2 32", r"^ok")


def test_three_clones_run_at_once_from_one_directory(start, tmp_path):
    first = start()
    serial = first.boot(bare("pattern"))
    serial.expect(r"^pattern ready$")
    serial.ask("w 5 2 16", r"^ok")
    snapshot_and_kill(first, tmp_path / "snap")
    clones = [start(name=f"clone{n}") for n in range(3)]
    lines = [clone.restore(tmp_path / "snap") for clone in clones]
    for line in lines:
        line.ask("c 5 2 16", r"^ok")
    for seed, line in enumerate(lines, 20):
        line.ask(f"w {seed} 2 16", r"^ok")
    for seed, line in enumerate(lines, 20):
        line.ask(f"c {seed} 2 16", r"^ok")


@pytest.mark.parametrize("backing", ["anonymous", "shared", "file"])
def test_every_memory_backing_is_snapshotted_and_goes_on(start, tmp_path, backing):
    memory = {"size": 64 << 20}
    if backing == "shared":
        memory["shared"] = True
    if backing == "file":
        memory["file"] = str(tmp_path / "ram")
    first = start()
    first.put("vm.create", {**first.config(bare("pattern")), "memory": memory})
    first.put("vm.boot")
    serial = first.serial()
    serial.expect(r"^pattern ready$")
    digest = serial.ask("w 11 2 40", r"^ok (\w+)$")[1]
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap")
    first.put("vm.resume")
    serial.ask("w 12 2 40", r"^ok")  # what comes later must not show in the snapshot
    first.stop()
    second = start()
    assert second.restore(tmp_path / "snap").ask("c 11 2 40", r"^ok (\w+)$")[1] == digest


def test_pings_and_info_answer_while_a_snapshot_is_written(start, tmp_path):
    daemon = start()
    serial = daemon.boot(bare("pattern"), memory=1 << 30)
    serial.expect(r"^pattern ready$")
    serial.ask("w 1 2 600", r"^ok")
    daemon.put("vm.pause")
    done = threading.Event()

    def take():
        try:
            daemon.snapshot(tmp_path / "snap")
        finally:
            done.set()

    thread = threading.Thread(target=take)
    thread.start()
    slowest = 0
    busy = 0
    while not done.is_set():
        begin = time.monotonic()
        daemon.get("vmm.ping")
        busy += bool(daemon.get("vm.info")["jobs"])
        slowest = max(slowest, time.monotonic() - begin)
    thread.join()
    assert busy > 0, "the snapshot was over before it was seen"
    assert slowest < 1, f"{slowest:.3f} s for an answer"


@pytest.mark.parametrize("mode", ["cow", "copy", "CopyOnWrite", "Copy"])
def test_every_restore_mode_gives_the_same_guest(start, tmp_path, mode):
    first = start()
    serial = first.boot(bare("pattern"))
    serial.expect(r"^pattern ready$")
    digest = serial.ask("w 3 2 24", r"^ok (\w+)$")[1]
    snapshot_and_kill(first, tmp_path / "snap")
    second = start()
    serial = second.restore(tmp_path / "snap", memory_restore_mode=mode)
    assert serial.ask("c 3 2 24", r"^ok (\w+)$")[1] == digest


def test_generations_of_snapshots_of_restored_guests(start, tmp_path):
    daemon = start()
    serial = daemon.boot(bare("pattern"))
    serial.expect(r"^pattern ready$")
    for generation in range(5):
        serial.ask(f"w {generation} {2 + 4 * generation} {6 + 4 * generation}", r"^ok")
        snapshot_and_kill(daemon, tmp_path / f"snap{generation}")
        daemon = start()
        serial = daemon.restore(tmp_path / f"snap{generation}")
        for past in range(generation + 1):
            serial.ask(f"c {past} {2 + 4 * past} {6 + 4 * past}", r"^ok")


@pytest.mark.parametrize("cmdline", ["", "periodic"], ids=["tsc-deadline", "periodic"])
def test_timers_go_on_after_restore(start, tmp_path, cmdline):
    first = start()
    first.boot(bare("timers"), cmdline).expect(r"rtc 32$")
    snapshot_and_kill(first, tmp_path / "snap")
    second = start()
    serial = second.restore(tmp_path / "snap")
    one = serial.expect(r"^tsc (\d+) lapic (\d+) rtc (\d+)$")
    two = serial.expect(r"^tsc (\d+) lapic (\d+) rtc (\d+)$")
    assert int(two[1]) + int(two[2]) > int(one[1]) + int(one[2]) and int(two[3]) > int(one[3])


@pytest.mark.parametrize("trigger", ["edge", "level"])
def test_serial_interrupts_go_on_after_restore(start, tmp_path, trigger):
    first = start()
    first.boot(bare("irq"), trigger).ask("one", r"^echo one$")
    snapshot_and_kill(first, tmp_path / "snap")
    second = start()
    serial = second.restore(tmp_path / "snap")
    serial.ask("two", r"^echo two$")
    serial.ask("three", r"^echo three$")


def test_no_level_interrupt_stays_in_service_over_snapshots(start, tmp_path):
    """The guest's EOI reaches the IOAPIC as an exit of its own, which KVM keeps to itself until the next KVM_RUN: were it
    forgotten by a snapshot, the line would be dead for good."""
    daemon = start()
    daemon.boot(bare("irq"), "level").ask("one", r"^echo one$")
    for generation in range(100):
        folder = tmp_path / f"snap{generation}"
        daemon.serials[-1].socket.sendall(b"x" * 100)  # an interrupt for each few of them, while it is paused
        snapshot_and_kill(daemon, folder)
        daemon = start()
        daemon.restore(folder).ask(f" {generation}", rf"^echo .* {generation}$")


def test_all_cpus_go_on_after_restore(start, tmp_path):
    first = start()
    serial = first.boot(bare("smp"), "cpus=4", cpus=4)
    serial.expect(r"^cpus 4$")
    snapshot_and_kill(first, tmp_path / "snap")
    second = start()
    serial = second.restore(tmp_path / "snap")
    first = counters(serial)
    eventually(lambda: all(now > before for now, before in zip(counters(serial), first)))


# What must be refused, and what then remains


def test_snapshot_of_a_running_vm_is_405_and_leaves_nothing(start, tmp_path):
    daemon = start()
    serial = daemon.boot(bare("tick"))
    status, body = daemon.raw("PUT", "vm.snapshot", {"destination_url": f"file://{tmp_path}/snap"})
    assert status == 405 and "Running" in " ".join(body), body
    assert not (tmp_path / "snap").exists()
    serial.ask("fine", r"^echo fine$")


def test_a_used_destination_is_refused_untouched(start, tmp_path):
    daemon = start()
    daemon.boot(bare("tick"))
    daemon.put("vm.pause")
    (tmp_path / "snap").mkdir()
    (tmp_path / "snap" / "precious").write_text("mine")
    status, body = daemon.raw("PUT", "vm.snapshot", {"destination_url": f"file://{tmp_path}/snap"})
    assert status in (400, 409) and "snap" in " ".join(body), (status, body)
    assert [path.name for path in (tmp_path / "snap").iterdir()] == ["precious"]
    assert daemon.state() == "Paused"
    daemon.put("vm.resume")


def test_an_empty_destination_directory_is_fine(start, tmp_path):
    daemon = start()
    daemon.boot(bare("tick"))
    daemon.put("vm.pause")
    (tmp_path / "snap").mkdir()
    daemon.snapshot(tmp_path / "snap")
    assert (tmp_path / "snap" / "manifest.bin").exists()


def test_a_missing_parent_is_named(start, tmp_path):
    daemon = start()
    daemon.boot(bare("tick"))
    daemon.put("vm.pause")
    status, body = daemon.raw("PUT", "vm.snapshot", {"destination_url": f"file://{tmp_path}/no/such/place"})
    assert 400 <= status < 500 and "no/such" in " ".join(body), (status, body)


@pytest.mark.parametrize("damage", ["missing", "no manifest", "truncated memory", "flipped state", "edited config"])
def test_a_damaged_snapshot_is_refused_and_the_daemon_serves_on(start, tmp_path, damage):
    first = start()
    first.boot(bare("tick")).expect(r"^tick 3$")
    snapshot_and_kill(first, tmp_path / "snap")
    snap = tmp_path / "snap"
    if damage == "missing":
        snap = tmp_path / "elsewhere"
    elif damage == "no manifest":
        (snap / "manifest.bin").unlink()
    elif damage == "truncated memory":
        with (snap / "memory.bin").open("r+b") as memory:
            memory.truncate(32 << 20)
    elif damage == "flipped state":
        data = bytearray((snap / "state.bin").read_bytes())
        data[len(data) // 2] ^= 0x20
        (snap / "state.bin").write_bytes(data)
    else:
        config = (snap / "config.json").read_text()
        assert "64" in config or "67108864" in config
        (snap / "config.json").write_text(config + "\n")
    second = start()
    status, body = second.raw("PUT", "vm.restore", {"source_url": f"file://{snap}"})
    assert 400 <= status < 500 and body, (status, body)
    assert second.raw("GET", "vm.info")[0] == 404
    second.boot(bare("idle")).expect(r"^idle$")


def test_restore_where_a_vm_exists_is_405(start, tmp_path):
    first = start()
    first.boot(bare("tick")).expect(r"^tick 1$")
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap")
    status, body = first.raw("PUT", "vm.restore", {"source_url": f"file://{tmp_path}/snap"})
    assert status == 405 and "Paused" in " ".join(body), (status, body)
    assert first.state() == "Paused"
