"""Snapshots that are not what was written: the format library refuses every one, and so does the real daemon.

The bulk (every bit of every small file, every length) runs in snapshot-damage, over the library that vmmd links;
a sample of it goes through vm.restore.
"""
import pathlib
import random
import re
import shutil
import subprocess

import pytest

import snapshots
from vmmd import Daemon, bare

MEMORY = 8 << 20
PATTERN = "7 2 6"
SMALL = ["manifest.bin", "state.bin", "config.json", "memory.digests"]


@pytest.fixture(scope="module")
def generations(tmp_path_factory):
    """Two snapshots of one VM, one after the other."""
    folder = tmp_path_factory.mktemp("generations")
    daemon = Daemon(folder / "vmmd")
    try:
        serial = daemon.boot(bare("pattern"), memory=MEMORY)
        for seed, name in ((7, "one"), (9, "two")):
            serial.ask(f"w {seed} 2 6", r"^ok ")
            daemon.put("vm.pause")
            daemon.snapshot(folder / name)
            daemon.put("vm.resume")
    finally:
        daemon.kill()
    return folder / "one", folder / "two"


@pytest.fixture
def copy(generations, tmp_path):
    shutil.copytree(generations[0], tmp_path / "copy")  # copystat keeps the id attribute
    return tmp_path / "copy"


@pytest.fixture
def refuse(start):
    """refuse(folder, …): vm.restore says no with a reason, and the daemon has no VM and nothing left of one."""
    daemon = start()
    daemon.get("vmm.ping")
    held = snapshots.idle_holdings(daemon.process.pid)

    def check(folder, what, **more):
        status, body = daemon.raw("PUT", "vm.restore", {"source_url": f"file://{folder}", **more})
        assert 400 <= status < 500 and body and all(body), f"{what}: {status} {body}"
        assert daemon.raw("GET", "vm.info")[0] == 404, what
        return " ".join(body)

    check.daemon = daemon
    yield check
    snapshots.settles(daemon.process.pid, held)


def flip(path, at, bit):
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def test_every_damage_is_refused_by_the_library(generations, tmp_path):
    # Over 100,000 small writes: not on a disk if there is something faster.
    shm = pathlib.Path("/dev/shm")
    scratch = (shm if shm.is_dir() else tmp_path) / f"vmmd-damage-{tmp_path.name}-{id(tmp_path)}"
    try:
        said = subprocess.run([snapshots.TOOLS / "snapshot-damage", generations[0], scratch], capture_output=True, text=True,
                              check=False)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    counts = re.search(r"^(\d+) damages, (\d+) harmful$", said.stdout, re.MULTILINE)
    assert counts, said.stdout + said.stderr
    assert int(counts[1]) > 8 * sum((generations[0] / name).stat().st_size for name in SMALL)
    assert int(counts[2]) == 0, said.stdout[-4000:]


def test_flipped_bits_are_refused_by_restore(copy, refuse):
    random_ = random.Random(1)
    for name in ("manifest.bin", "state.bin", "config.json"):
        size = (copy / name).stat().st_size
        for at in [0, size - 1, *random_.sample(range(size), 20)]:
            bit = random_.randrange(8)
            flip(copy / name, at, bit)
            refuse(copy, f"{name} byte {at} bit {bit}")
            flip(copy / name, at, bit)
    refuse.daemon.restore(copy).ask(f"c {PATTERN}", r"^ok ")  # whole again
    refuse.daemon.put("vm.delete")


@pytest.mark.parametrize("name", [*SMALL, "memory.bin"])
def test_wrong_lengths_are_refused_by_restore(copy, refuse, name):
    path = copy / name
    whole = path.read_bytes()
    for length in sorted({0, 1, len(whole) // 2, len(whole) - 4096, len(whole) - 1} - {-1}):
        if 0 <= length < len(whole):
            path.write_bytes(whole[:length])
            assert name in refuse(copy, f"{name} of {length} bytes")
    for tail in (b"\0", b"\n", whole[:4096]):
        path.write_bytes(whole + tail)
        assert name in refuse(copy, f"{name} with {len(tail)} bytes more")
    path.unlink()
    assert name in refuse(copy, f"no {name}")


@pytest.mark.parametrize("taken", [["manifest.bin"], ["state.bin"], ["memory.bin"], ["manifest.bin", "state.bin"],
                                   ["manifest.bin", "state.bin", "config.json", "memory.digests"],
                                   ["memory.bin", "memory.digests"], ["state.bin", "memory.bin"]], ids="+".join)
def test_mixed_generations_are_refused_by_restore(generations, copy, refuse, taken):
    for name in taken:
        shutil.copy2(generations[1] / name, copy / name)  # with the id attribute, as cp -a
    refuse(copy, taken)


def test_digests_of_another_generation_are_found_where_they_are_used(generations, copy, refuse):
    shutil.copy2(generations[1] / "memory.digests", copy / "memory.digests")
    assert "memory.digests" in refuse(copy, "digests", verify="full")
    assert "memory.digests" in refuse(copy, "digests", memory_restore_mode="copy", verify="full")
    assert snapshots.judge(copy).startswith("torn")


def test_memory_of_another_generation_without_its_attribute_is_found_by_verify(generations, copy, refuse):
    """Tools that lose attributes: then only the digests can tell."""
    (copy / "memory.bin").write_bytes((generations[1] / "memory.bin").read_bytes())
    assert snapshots.judge(copy).startswith("damaged")
    for mode in ("cow", "copy"):
        assert "memory" in refuse(copy, mode, memory_restore_mode=mode, verify="full")


def test_flips_in_memory_are_refused_by_a_verifying_restore(copy, refuse):
    random_ = random.Random(2)
    for _ in range(12):
        at, bit = random_.randrange(MEMORY), random_.randrange(8)
        flip(copy / "memory.bin", at, bit)
        address = f"{at & ~0x1FFFFF:#x}"
        for mode in ("cow", "copy"):
            text = refuse(copy, f"memory.bin byte {at:#x} {mode}", memory_restore_mode=mode, verify="full")
            assert address in text, text
        flip(copy / "memory.bin", at, bit)


@pytest.mark.parametrize("name", [*SMALL, "memory.bin"])
@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory", "device"])
def test_what_is_no_regular_file_is_refused_and_never_waited_for(copy, refuse, name, kind):
    path = copy / name
    path.rename(copy.parent / name)
    if kind == "symlink":
        path.symlink_to(copy.parent / name)
    elif kind == "fifo":
        subprocess.run(["mkfifo", path], check=True)
    elif kind == "directory":
        path.mkdir()
    else:
        try:
            subprocess.run(["mknod", path, "c", "1", "5"], check=True, capture_output=True)
        except subprocess.CalledProcessError:
            pytest.skip("may not make device files here")
    assert name in refuse(copy, f"{name} is a {kind}")
