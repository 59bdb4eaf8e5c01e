"""vm.resize-disk: the image grows, or has grown, and the Linux guest has the new size; nothing shrinks."""
import os
import time

import pytest

import vmmd
from remote import ok
from test_linux_disk import RECORD, SIZE, boot, disk, image


def sees(serial, size, patience=vmmd.PATIENCE):
    """Waits until the guest's driver has heard of it."""
    deadline = time.monotonic() + patience
    while int(serial.ask("cat /sys/block/vda/size", r"^(\d+)\s*end$")[1]) != size // 512:
        assert time.monotonic() < deadline


def test_a_disk_grows_while_its_guest_runs(linux, start, tmp_path):
    daemon = start()
    path = image(tmp_path / "data.img")
    serial = boot(linux, daemon, disk(path), more="tick=0")
    serial.ask("disk write /dev/vda 7 0 64", r"^disk wrote 64$")
    sees(serial, SIZE)
    ok(daemon, "resize-disk", "--disk", "data", "--size", "48M")
    assert daemon.events.wait("vm", "resized")["properties"] == {"disk": "data", "size": str(48 << 20)}
    assert path.stat().st_size == 48 << 20
    sees(serial, 48 << 20)
    first = (40 << 20) // RECORD
    serial.ask(f"disk write /dev/vda 8 {first} 64", r"^disk wrote 64$")
    # Somebody else made it larger: only the guest has to be told.
    os.truncate(path, 64 << 20)
    daemon.put("vm.resize-disk", {"id": "data", "desired_size": 64 << 20})
    sees(serial, 64 << 20)
    # A guest that stands still is told when it goes on, also in a clone.
    daemon.put("vm.pause")
    daemon.put("vm.resize-disk", {"id": "data", "desired_size": 80 << 20})
    daemon.snapshot(tmp_path / "snapshot")
    daemon.put("vm.delete")
    clone = start(name="clone")
    serial = clone.restore(tmp_path / "snapshot")
    sees(serial, 80 << 20)
    serial.ask("disk check /dev/vda 7 0 64", r"^disk checked 64$")
    serial.ask(f"disk check /dev/vda 8 {first} 64", r"^disk checked 64$")


@pytest.mark.guest
@pytest.mark.parametrize(("request_", "status", "why"), [
    ({"id": "raw", "desired_size": 4096}, 400, "no disk is made smaller"),
    ({"id": "raw", "desired_size": 8193}, 400, "not a multiple of 512"),
    ({"id": "layered", "desired_size": 16384}, 400, "overlay is as long as its image was"),
    ({"id": "fixed", "desired_size": 16384}, 400, "it is read only"),
    ({"id": "other", "desired_size": 16384}, 404, 'no disk "other"'),
    ({"id": "raw", "desired_size": 1 << 62}, 400, "raw.img"),
], ids=lambda value: value["id"] if isinstance(value, dict) else None)
def test_what_cannot_be_is_refused_and_changes_nothing(start, tmp_path, request_, status, why):
    daemon = start()
    names = {name: image(tmp_path / f"{name}.img", 8192) for name in ("raw", "layered", "fixed")}
    daemon.boot(vmmd.bare("pattern"), disks=[
        disk(names["raw"], "raw"), disk(names["layered"], "layered", overlay="memory"),
        disk(names["fixed"], "fixed", readonly=True)])
    answer, messages = daemon.raw("PUT", "vm.resize-disk", request_)
    assert answer == status and why in " ".join(messages)
    assert all(path.stat().st_size == 8192 for path in names.values())


@pytest.mark.guest
def test_a_disk_grows_before_its_guest_boots(start, tmp_path):
    daemon = start()
    path = image(tmp_path / "data.img", 8192)
    daemon.create(vmmd.bare("pattern"), disks=[disk(path)])
    daemon.put("vm.resize-disk", {"id": "data", "desired_size": 16384})
    assert path.stat().st_size == 16384
    daemon.put("vm.boot")
    daemon.serial().ask("w 7 2 4", "^ok ")


def test_without_a_vm_there_is_no_disk(daemon):
    assert daemon.raw("PUT", "vm.resize-disk", {"id": "data", "desired_size": 512})[0] == 404
