"""on_enospc = Pause: a guest whose disk finds no room on the host stands still until there is some, here or where its
snapshot is restored, and then nothing has failed and nothing is lost."""
import contextlib
import shutil
import subprocess

import pytest

from test_linux_disk import boot, disk, image

ROOM = 128 << 10
RECORDS = 60  # of 4 KiB: twice the room


@contextlib.contextmanager
def tmpfs(where):
    where.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tiny", where], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("cannot mount a tmpfs here")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)


def enlarge(mount):
    subprocess.run(["mount", "-o", f"remount,size={16 * ROOM}", mount], check=True)


def is_full(daemon):
    """Waits until the VM is paused for want of room."""
    event = daemon.events.wait("device", "disk-full")
    assert event["properties"]["unit"] == "disk:data" and "No space left" in event["properties"]["error"]
    info = daemon.get("vm.info")
    assert (info["state"], info["full_disks"]) == ("Paused", ["data"])


def goes_on(daemon, serial):
    serial.expect(f"^disk wrote {RECORDS}$")
    serial.ask(f"disk check /dev/vda 7 0 {RECORDS}", f"^disk checked {RECORDS}$")
    assert daemon.get("vm.info")["full_disks"] == []
    assert daemon.get("vm.counters")["disk:data"]["errors"] == 0


def times_told(daemon):
    return daemon.log.read_text().count("No space left"), daemon.events.names().count("device:disk-full")


@pytest.fixture
def full(linux, start, tmp_path):
    """(daemon, serial, mount) of a guest that has filled its host."""
    with tmpfs(tmp_path / "tiny") as mount:
        daemon = start()
        serial = boot(linux, daemon, disk(image(mount / "data.img"), on_enospc="Pause"), more="tick=0")
        serial.send(f"disk write /dev/vda 7 0 {RECORDS}")
        is_full(daemon)
        yield daemon, serial, mount
        daemon.stop()


def test_a_write_without_room_waits_until_there_is_some(full):
    daemon, serial, mount = full
    assert times_told(daemon) == (1, 1)
    daemon.put("vm.resume")
    is_full(daemon)  # as before
    assert times_told(daemon) == (2, 2)
    enlarge(mount)
    daemon.put("vm.resume")
    goes_on(daemon, serial)


def test_a_restored_guest_writes_what_its_host_had_no_room_for(full, start, tmp_path):
    daemon, _, mount = full
    daemon.snapshot(tmp_path / "snapshot")
    shutil.copy(mount / "data.img", tmp_path / "data.img")
    daemon.put("vm.delete")
    clone = start(name="clone")
    serial = clone.restore(tmp_path / "snapshot", resume=False,
                           overrides={"disks": [{"id": "data", "path": str(tmp_path / "data.img")}]})
    assert clone.get("vm.info")["full_disks"] == ["data"]
    clone.put("vm.resume")
    goes_on(clone, serial)


def test_a_guest_without_room_can_be_started_over(full, linux):
    daemon, serial, mount = full
    enlarge(mount)
    daemon.put("vm.reboot")
    serial.expect(r"^AGENT READY$", timeout=240)
    assert daemon.get("vm.info")["full_disks"] == []
    serial.ask("disk write /dev/vda 8 0 16", r"^disk wrote 16$")
    serial.ask("disk check /dev/vda 8 0 16", r"^disk checked 16$")


def test_a_full_overlay_in_memory_waits_too(linux, start, tmp_path):
    daemon = start()
    layered = disk(image(tmp_path / "data.img"), overlay="memory", overlay_limit=ROOM, on_enospc="Pause")
    serial = boot(linux, daemon, layered, more="tick=0")
    serial.send(f"disk write /dev/vda 7 0 {RECORDS}")
    is_full(daemon)
    daemon.snapshot(tmp_path / "snapshot")
    daemon.put("vm.delete")
    clone = start(name="clone")
    serial = clone.restore(tmp_path / "snapshot", overrides={"disks": [{"id": "data", "overlay_limit": 16 * ROOM}]})
    goes_on(clone, serial)
