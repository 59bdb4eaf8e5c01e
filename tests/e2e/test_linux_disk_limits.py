"""Disks of the Linux guest whose host gives less than it did: rate limits, and a backend that loses what it held."""
import os
import pathlib
import subprocess

import pytest


RECORD = 4096
SIZE = 4 << 20
LEFT = 64 << 10  # of the image that shrank: 16 records
LIMIT = {"ops": {"size": 2, "refill_time": 4000}}  # ms: slower than any guest is on a busy host
EIO = (1 << 64) - 5  # as the guest prints what read() answered


def image(path, size=SIZE):
    path.write_bytes(b"")
    os.truncate(path, size)
    return str(path)


def throttled(daemon, name):
    return daemon.get("vm.counters")[f"disk:{name}"]["throttled"]


def test_rate_limits_hold_for_linux_and_may_change_with_a_restore(linux, start, tmp_path):
    disks = [{"id": "own", "path": image(tmp_path / "own"), "rate_limiter_config": LIMIT},
             {"id": "one", "path": image(tmp_path / "one"), "rate_limit_group": "shared"},
             {"id": "two", "path": image(tmp_path / "two"), "rate_limit_group": "shared"},
             {"id": "free", "path": image(tmp_path / "free")}]
    groups = [{"id": "shared", "rate_limiter_config": LIMIT}]
    daemon = start()
    serial = linux.boot(daemon, more="tick=0", disks=disks, rate_limit_groups=groups)
    for device in "abcd":
        serial.ask(f"disk write /dev/vd{device} 7 0 3", r"^disk wrote 3$")
    for name in ("own", "one", "two"):
        assert throttled(daemon, name) >= 1
    assert throttled(daemon, "free") == 0
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snapshot")
    daemon.stop()
    # A smaller bucket than the one that was saved, none at all, and a group that hardly limits.
    smaller = {"ops": {"size": 1, "refill_time": 2000}}
    wide = {"ops": {"size": 1 << 30, "refill_time": 100}}
    overrides = {"disks": [{"id": "own", "rate_limiter_config": smaller}, {"id": "two", "rate_limit_group": None}],
                 "rate_limit_groups": [{"id": "shared", "rate_limiter_config": wide}]}
    clone = start(name="clone")
    serial = clone.restore(tmp_path / "snapshot", overrides=overrides)
    before = {name: throttled(clone, name) for name in ("own", "one", "two")}
    for device in "abc":
        serial.ask(f"disk write /dev/vd{device} 9 0 3", r"^disk wrote 3$")
    assert throttled(clone, "own") > before["own"]
    assert throttled(clone, "two") == before["two"]


@pytest.fixture(params=["file", "loop"])
def backend(request, tmp_path):
    """What a disk is: (its path, shrink(), grow()), a file or a block device."""
    path = image(tmp_path / "data.img")
    if request.param == "file":
        yield path, lambda: os.truncate(path, LEFT), lambda: os.truncate(path, SIZE)
        return
    made = subprocess.run(["losetup", "--find", "--show", path], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"NOT TESTED, no loop device: {made.stderr.strip()}")
    device = made.stdout.strip()

    def resize(size):
        os.truncate(path, size)
        subprocess.run(["losetup", "--set-capacity", device], check=True)
    try:
        yield device, lambda: resize(LEFT), lambda: resize(SIZE)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_a_backend_that_lost_what_it_held_fails_in_the_guest_and_the_vm_goes_on(linux, start, backend):
    path, shrink, grow = backend
    daemon = start()
    serial = linux.boot(daemon, more="tick=0", disks=[{"id": "data", "path": path}])
    serial.ask("disk write /dev/vda 7 0 64", r"^disk wrote 64$")
    shrink()
    serial.ask("disk check /dev/vda 7 0 64", rf"^disk: record {LEFT // RECORD} bad, read {EIO}, ")
    told = daemon.events.wait("device", "backend-failed")
    assert told["properties"]["unit"] == "disk:data" and path in told["properties"]["error"]
    assert daemon.get("vm.counters")["disk:data"]["errors"] >= 1
    daemon.put("vm.pause")
    daemon.put("vm.resume")
    serial.ask(f"disk check /dev/vda 7 0 {LEFT // RECORD}", rf"^disk checked {LEFT // RECORD}$")
    answer, messages = daemon.raw("PUT", "vm.resize-disk", {"id": "data", "desired_size": LEFT})
    assert answer == 400 and f"was cut to {LEFT} bytes, and the guest believes in {SIZE}" in " ".join(messages)
    if pathlib.Path(path).is_file():
        daemon.put("vm.resize-disk", {"id": "data", "desired_size": SIZE})
        assert os.path.getsize(path) == SIZE
    grow()
    serial.ask("disk write /dev/vda 9 0 64", r"^disk wrote 64$")
    serial.ask("disk check /dev/vda 9 0 64", r"^disk checked 64$")
    assert daemon.process.poll() is None
