"""One Linux guest with a device of every kind: idle it costs nothing, and ten generations of it lose nothing."""
import os
import pathlib
import time

import pytest

import netns
import vmmd

MEMORY = 128 << 20
IDLE_SECONDS = 2  # nothing may happen: that can only be seen by waiting


def image(path, size):
    path.write_bytes(b"")
    os.truncate(path, size)
    return str(path)


def config(folder):
    devices = {
        "disks": [{"id": "a", "path": image(folder / "a.img", 16 << 20), "overlay": "memory"},
                  {"id": "b", "path": image(folder / "b.img", 16 << 20)}],
        "pmem": [{"id": "p", "file": image(folder / "p.img", 4 << 20)}],
        "vsock": {"cid": 5, "socket": str(folder / "v")},
        "console": {"mode": "File", "file": str(folder / "console")},
        "balloon": {"size": 8 << 20},
        "watchdog": True,
    }
    return devices | {"net": [{"id": "n", "tap": "tap0"}]}


def clone_overrides(folder, generation):
    """The next generation has its own vsock and console; disk b, pmem and the tap are handed on."""
    return {"vsock": {"socket": str(folder / f"v{generation}")}, "console": {"file": str(folder / f"console{generation}")}}


@pytest.fixture(scope="module")
def with_all(linux, tmp_path_factory):
    folder = tmp_path_factory.mktemp("all")
    with netns.namespace(), vmmd.leaving_snapshot(folder) as daemon:
        linux.boot(daemon, more="tick=0 serve=1234", memory=MEMORY, **config(folder))
    return folder


@pytest.fixture(autouse=True)
def namespace():
    with netns.namespace():
        # The host's IPv6 would talk to the guest whenever it likes.
        pathlib.Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1", encoding="ascii")
        yield


def device_thread(pid):
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == "vmmd-devices":
            return task
    raise AssertionError("no device thread")


def wake_ups(task):
    status = (task / "status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("voluntary_ctxt_switches")))


def resident_beyond_ram(pid):
    """Bytes of RSS outside the mapping that is the guest's RAM."""
    total = ram = size = 0
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        word = line.split()
        if word[0] == "Size:":
            size = int(word[1]) << 10
        elif word[0] == "Rss:":
            total += int(word[1]) << 10
            if size >= MEMORY:
                ram += int(word[1]) << 10
    assert ram > 0
    return total - ram


def test_idle_devices_wake_nobody_and_take_little_memory(start, with_all):
    daemon = start()
    serial = daemon.restore(with_all / "snapshot", overrides=clone_overrides(daemon.folder, 0))
    serial.ask("count", r"^count \d+$")
    task = device_thread(daemon.process.pid)
    assert len([unit for unit in daemon.get("vm.counters") if unit.endswith("/pci")]) == 9
    for _ in range(5):
        asked = daemon.get("vm.counters")["rng"]["requests"]
        # What the restore and this question (of the balloon's statistics) set in motion comes to an end first.
        time.sleep(IDLE_SECONDS)
        before = wake_ups(task)
        time.sleep(IDLE_SECONDS)
        woken = wake_ups(task) - before
        if daemon.get("vm.counters")["rng"]["requests"] == asked:
            break  # else the guest was not idle: Linux feeds its entropy pool, ever more seldom
    assert woken == 0
    assert resident_beyond_ram(daemon.process.pid) <= 8 << 20


def test_ten_generations_lose_nothing_on_any_device(start, with_all, tmp_path):
    snapshot = with_all / "snapshot"
    for generation in range(1, 11):
        daemon = start(name=f"generation{generation}")
        serial = daemon.restore(snapshot, overrides=clone_overrides(daemon.folder, generation))
        for disk in ("vda", "vdb"):  # past the guest's page cache
            for earlier in range(1, generation):
                serial.ask(f"disk check /dev/{disk} {earlier} {earlier * 8} 8", "^disk checked 8$")
            serial.ask(f"disk write /dev/{disk} {generation} {generation * 8} 8", "^disk wrote 8$")
        for earlier in range(1, generation):
            serial.ask(f"file check /dev/pmem0 {earlier} {earlier * 16} 16", "^ok")
        serial.ask(f"file write /dev/pmem0 {generation} {generation * 16} 16", "^ok")
        serial.ask(f"say /dev/hvc0 generation {generation}", "^put")
        vmmd.echo_by_vsock(daemon.folder / f"v{generation}")
        daemon.put("vm.pause")
        snapshot = tmp_path / f"snapshot{generation}"
        daemon.snapshot(snapshot)
        assert f"generation {generation}" in (daemon.folder / f"console{generation}").read_text()
        daemon.kill()
