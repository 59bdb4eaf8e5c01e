"""Snapshots of restored VMs, again and again, in every combination of modes; and the same a thousand times."""
import contextlib
import hashlib
import itertools
import os
import pathlib
import shutil

import pytest

import snapshots
from vmmd import SANITIZED, bare

MEMORY = 16 << 20
GENERATIONS = 10
# VMMD_SOAK=1000 for the full run.
EVENTS = 1024  # EventBus::kHistory
SOAK = int(os.environ.get("VMMD_SOAK", 30))


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in pathlib.Path(folder).iterdir()}


class Chain:
    """A VM of the pattern guest, handed on from one generation to the next. Each writes one MiB more; all are checked."""

    def __init__(self, start, folder):
        self.start = start
        self.folder = folder
        self.kept = {}  # snapshot -> digests of its files when it was made
        self.step = 0

    def boot(self, in_file):
        self.daemon = self.start()
        config = self.daemon.config(bare("pattern"), memory=MEMORY)
        if in_file:
            config["memory"]["file"] = str(self.folder / "ram")
        self.daemon.put("vm.create", config)
        self.daemon.put("vm.boot")
        self.serial = self.daemon.serial()
        self.serial.expect(r"^pattern ready$")

    def write(self):
        """A new MiB, and the one before it once more, so that pages change that a snapshot has."""
        self.step += 1
        for at in {max(self.step - 1, 1), self.step}:
            self.serial.ask(f"w {self.step * 100 + at} {at + 2} {at + 3}", r"^ok ")

    def check(self, steps=None):
        for at in range(1, (steps or self.step) + 1):
            # The MiB `at` was last written by the step after it, but for the last.
            by = min(at + 1, steps or self.step)
            self.serial.ask(f"c {by * 100 + at} {at + 2} {at + 3}", r"^ok ")

    def snapshot(self, mode):
        name = self.folder / f"snap{self.step}"
        self.daemon.put("vm.pause")
        self.daemon.snapshot(name, mode=mode)
        self.daemon.jobs_end()  # digests of linked memory are added afterwards
        self.kept[name] = digests(name)
        return name

    def restore(self, name, mode, file=None):
        self.daemon = self.start()
        overrides = {"memory": {"file": str(file)}} if file else {}
        self.serial = self.daemon.restore(name, memory_restore_mode=mode, overrides=overrides)

    def nothing_changed(self):
        for name, before in self.kept.items():
            assert digests(name) == before, f"{name} changed after it was made"
            assert snapshots.judge(name).startswith("complete"), name


def run_chain(chain, restore_modes, capture_modes, die):
    """`die`: the VM of each generation ends at its snapshot; otherwise it goes on beside its heirs, writing."""
    captures, restores = itertools.cycle(capture_modes), itertools.cycle(restore_modes)
    chain.boot(in_file=capture_modes[0] != "copy")
    for generation in range(GENERATIONS):
        chain.write()
        capture, restore = next(captures), next(restores)
        name = chain.snapshot(capture)
        if die:
            chain.daemon.stop()
        else:  # what the parent does now is in no snapshot
            chain.daemon.put("vm.resume")
            chain.check()
            chain.serial.ask(f"w {999 - generation} 2 16", r"^ok ")
            chain.daemon.stop()
        # A file of RAM of its own, so that the next generation can link or clone it.
        file = chain.folder / f"ram{generation}" if restore == "copy" and capture_modes != ["copy"] else None
        chain.restore(name, restore, file)
        chain.check()
    chain.daemon.stop()
    chain.nothing_changed()
    # The oldest and the youngest are still what they were.
    chain.restore(chain.folder / "snap1", "cow")
    chain.check(1)


@pytest.mark.parametrize("die", [True, False], ids=["handed-on", "parent-goes-on"])
@pytest.mark.parametrize("restores", [["cow"], ["copy"], ["cow", "copy"]], ids="+".join)
def test_ten_generations_by_copy(start, tmp_path, restores, die):
    run_chain(Chain(start, tmp_path), restores, ["copy"], die)


@pytest.mark.parametrize("die", [True, False], ids=["handed-on", "parent-goes-on"])
@pytest.mark.parametrize("captures", [["link"], ["link", "copy"], ["auto"]], ids="+".join)
def test_ten_generations_by_link(start, tmp_path, captures, die):
    run_chain(Chain(start, tmp_path), ["copy"], captures, die)


@pytest.mark.parametrize("captures", [["link", "copy", "copy"], ["auto"]], ids="+".join)
def test_ten_generations_by_link_copied_on_write_in_between(start, tmp_path, captures):
    """RAM that is mapped copy-on-write cannot be linked: auto finds what can be done."""
    run_chain(Chain(start, tmp_path), ["cow", "cow", "copy"], captures, False)


@pytest.mark.parametrize("captures", [["reflink"], ["reflink", "copy"], ["reflink", "link"], ["auto"]], ids="+".join)
def test_ten_generations_by_reflink(start, xfs, captures, request):
    folder = xfs / request.node.name.replace("[", "-").strip("]")
    folder.mkdir()
    run_chain(Chain(start, folder), ["copy"], captures, False)


def test_one_vm_saved_ten_times_by_link_then_copy(start, tmp_path):
    """The first takes RAM's file; the following are copies of base and private pages."""
    chain = Chain(start, tmp_path)
    chain.boot(in_file=True)
    for generation in range(GENERATIONS):
        chain.write()
        chain.snapshot("link" if generation == 0 else "auto")
        chain.daemon.put("vm.resume")
        chain.check()
    chain.daemon.stop()
    chain.nothing_changed()
    for generation in (1, 2, GENERATIONS // 2, GENERATIONS):
        chain.restore(tmp_path / f"snap{generation}", "cow")
        chain.check(generation)
        chain.daemon.stop()


def resident(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as smaps:
        return next(int(line.split()[1]) for line in smaps if line.startswith("Pss_Anon"))  # KiB


def one_of_everything(folder):
    """Devices of every kind; a network where taps can be made. The guest has no driver: the host's side is what is soaked."""
    def image(name):
        with (folder / name).open("wb") as file:
            file.truncate(4 << 20)
        return str(folder / name)

    devices = {"disks": [{"id": "a", "path": image("a.img")}, {"id": "b", "path": image("b.img"), "overlay": "memory"}],
               "pmem": [{"id": "p", "file": image("p.img"), "discard_writes": True}],
               "vsock": {"cid": 3, "socket": str(folder / "v.sock")}, "console": {"mode": "Pty"},
               "balloon": {"size": 0}, "watchdog": True}
    if os.geteuid() == 0 and os.path.exists("/dev/net/tun"):
        devices["net"] = [{"id": "n", "tap": f"soak{os.getpid()}"}]
    return devices


@pytest.mark.skipif(SANITIZED, reason="sanitizers keep freed memory")
@pytest.mark.parametrize("devices", ["plain", "every-device"])
def test_cycles_of_snapshot_and_restore_hold_on_to_nothing(start, tmp_path, tmp_path_factory, monkeypatch, devices):
    """One daemon: snapshot, delete, restore, over and over. Memory is that of the same moment of an early cycle."""
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")  # how many arenas glibc makes is chance
    daemon = start()
    images = tmp_path_factory.mktemp("devices")
    more = one_of_everything(images) if devices == "every-device" else {}
    daemon.boot(bare("pattern"), memory=MEMORY, **more).ask("w 7 2 6", r"^ok ")
    for _ in range(EVENTS // 4 + 1):  # the history of events is full from the start; these are four each
        daemon.put("vm.pause")
        daemon.put("vm.resume")
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snap0000")
    held, early, late = None, [], []
    for cycle in range(1, SOAK + 1):
        daemon.put("vm.delete")
        daemon.close_clients()
        if cycle == 3:
            held = snapshots.idle_holdings(daemon.process.pid)
        if cycle % 10 == 0 or cycle == SOAK:
            snapshots.settles(daemon.process.pid, held)
        (early if cycle <= 10 else late).append(resident(daemon.process.pid))
        mode = ("cow", "copy")[cycle % 2]
        serial = daemon.restore(tmp_path / f"snap{cycle - 1:04}", memory_restore_mode=mode, verify=("none", "full")[cycle // 2 % 2])
        serial.ask(f"c {6 + cycle} 2 6", r"^ok ")
        serial.ask(f"w {7 + cycle} 2 6", r"^ok ")
        daemon.put("vm.pause")
        daemon.snapshot(tmp_path / f"snap{cycle:04}")
        shutil.rmtree(tmp_path / f"snap{cycle - 1:04}")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"snap{SOAK:04}", daemon.folder.name])
    with contextlib.suppress(FileNotFoundError):
        assert sorted(path.name for path in daemon.folder.iterdir()) == ["api.sock", "serial.sock", "vmmd.log"]
    daemon.put("vm.delete")
    assert sorted(path.name for path in images.iterdir()) == (["a.img", "b.img", "p.img"] if more else [])
    growth = max(late[-10:]) - max(early)
    assert growth <= 64 + SOAK // 20, f"{growth} KiB more after {SOAK} cycles: {early} … {late[-10:]}"
    print(f"{SOAK} cycles: {max(early)} KiB private at first, {max(late[-10:])} KiB at the end")
