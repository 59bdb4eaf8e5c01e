"""Snapshots made by earlier builds, on other machines (tests/golden/make.sh): every later build opens and restores them."""
import re
import subprocess

import pytest

import golden_devices
import snapshots
from remote import remote
from vmmd import ROOT, eventually
from test_lifecycle import counters
from test_snapshot import lcg

GOLDEN = sorted((ROOT / "tests" / "golden").glob("*.tar.xz"))
ADVICE = ("cpu_check=ignore", "TSC")  # one of them is in every refusal for the host's sake


def test_there_are_some():
    assert {path.name.split("-")[1].split(".")[0] for path in GOLDEN} >= {"tick", "pattern", "smp", "cruncher", "devices"}
    assert all(path.stat().st_size <= 200 << 10 for path in GOLDEN)


def name_of(path):
    return path.name.removesuffix(".tar.xz")


@pytest.fixture(params=GOLDEN, ids=name_of)
def golden(request, tmp_path):
    """(directory, guest) of one of them, unpacked."""
    subprocess.run(["tar", "--extract", "--xattrs", "--xattrs-include=user.*", "--xz", f"--file={request.param}",
                    f"--directory={tmp_path}"], check=True)
    name = name_of(request.param)
    return tmp_path / name, name.rsplit("-", 1)[1]


def goes_on(guest, serial, folder):
    """The guest is where it was, and lives."""
    if guest == "devices":
        golden_devices.goes_on(serial, folder)
    elif guest == "tick":
        first = int(serial.expect(r"^tick (\d+)$")[1])
        assert first >= 10
        serial.expect(f"^tick {first + 1}$")
        serial.ask("hello", r"^echo hello$")
    elif guest == "pattern":
        serial.ask("c 7", r"^ok ")
        serial.ask("w 8", r"^ok ")
    elif guest == "smp":
        first = counters(serial)
        eventually(lambda: all(now > before for now, before in zip(counters(serial), first)))
    else:
        n, general, sse, x87 = serial.expect(r"^hash (\d+) (\w+) (\w+) (\w+)$").groups()
        steps = int(n) * 4194304
        assert int(n) >= 2
        assert (int(general, 16), int(sse, 16), int(x87, 16)) == (lcg(steps), 3 * steps, 5 * int(n))


def test_it_opens_and_checks(golden):
    folder, _ = golden
    assert snapshots.judge(folder) == "complete"


@pytest.mark.parametrize("golden", [path for path in GOLDEN if name_of(path).endswith("-devices")], ids=name_of, indirect=True)
def test_the_files_of_its_devices_are_asked_for(golden):
    folder, _ = golden
    said = remote(None, "snapshot", "check", folder)
    assert said.returncode != 0
    for name in ("disk.img", "pmem.img"):
        assert re.search(rf"/{name}.*No such file", said.stderr), said.stderr


@pytest.mark.parametrize("mode", ["cow", "copy"])
def test_it_restores_and_goes_on(start, golden, mode):
    folder, guest = golden
    daemon = start()
    override = {"serial": {"mode": "Socket", "socket": str(daemon.serial_path)}}
    if guest == "devices":
        golden_devices.make_backings(folder.parent)
        override |= golden_devices.overrides(folder.parent)
    request = {"source_url": f"file://{folder}", "resume": True, "overrides": override, "memory_restore_mode": mode}
    status, body = daemon.raw("PUT", "vm.restore", request)
    if status >= 300:
        # Another CPU than the one it was made on: that is said, and may be overruled.
        text = " ".join(body)
        assert status == 400 and re.search("|".join(ADVICE), text), (status, body)
        assert daemon.raw("GET", "vm.info")[0] == 404
        print(f"with cpu_check=ignore, since: {text}")
        daemon.put("vm.restore", {**request, "cpu_check": "ignore"})
    goes_on(guest, daemon.serial(), folder.parent)
    # And what this build makes of it is a snapshot as any.
    daemon.put("vm.pause")
    daemon.snapshot(folder.parent / "again")
    assert snapshots.judge(folder.parent / "again") == "complete"
