"""RAM whose file is cut, or lies on a filesystem that is full: the VM ends with a reason, the daemon goes on."""
import os
import subprocess

import pytest

from vmmd import bare

pytestmark = pytest.mark.guest

MEMORY = 64 << 20


@pytest.fixture
def tiny(tmp_path):
    """A tmpfs with room for a quarter of the RAM."""
    mount = tmp_path / "tiny"
    mount.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", mount], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"FULL FILESYSTEM NOT TESTED: cannot mount a tmpfs: {mounted.stderr.strip()}")
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)


def boot_in_file(daemon, file, **memory):
    config = daemon.config(bare("pattern"), memory=MEMORY)
    config["memory"].update({"file": str(file), **memory})
    daemon.put("vm.create", config)
    daemon.put("vm.boot")
    serial = daemon.serial()
    serial.expect(r"^pattern ready$")
    return serial


def crashed(daemon):
    """The event; the daemon answers, the VM is shut down, and another can be made."""
    event = daemon.events.wait("guest", "crashed")["properties"]
    assert event["reason"] == "memory-lost", event
    while daemon.state() != "Shutdown":
        pass
    daemon.put("vm.delete")
    assert daemon.raw("GET", "vm.info")[0] == 404
    return event["message"]


def test_a_guest_that_outgrows_its_filesystem_is_stopped_and_says_why(start, tiny):
    daemon = start()
    serial = boot_in_file(daemon, tiny / "ram")
    serial.send("w 7 2 40")
    assert "its filesystem is full" in crashed(daemon)
    (tiny / "ram").unlink()
    daemon.close_clients()
    daemon.boot(bare("tick")).expect(r"^tick 2$")


def test_a_guest_whose_memory_file_is_cut_is_stopped(start, tmp_path):
    daemon = start()
    serial = boot_in_file(daemon, tmp_path / "ram")
    serial.ask("w 7 2 40", r"^ok ")
    os.truncate(tmp_path / "ram", 8 << 20)
    serial.send("c 7 2 40")
    assert "memory file was cut" in crashed(daemon)


def test_a_clone_whose_snapshot_is_cut_is_stopped(start, tmp_path):
    first = start()
    first.boot(bare("pattern"), memory=MEMORY).ask("w 7 2 40", r"^ok ")
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap")
    first.stop()
    daemon = start()
    serial = daemon.restore(tmp_path / "snap")
    serial.ask("c 7 2 4", r"^ok ")
    os.truncate(tmp_path / "snap" / "memory.bin", 8 << 20)
    serial.send("c 7 2 40")
    crashed(daemon)


@pytest.mark.parametrize("mode", ["copy", "link", "auto"])
def test_no_snapshot_is_made_of_memory_that_was_cut(start, tmp_path, mode):
    daemon = start()
    serial = boot_in_file(daemon, tmp_path / "ram")
    serial.ask("w 7 2 40", r"^ok ")
    daemon.put("vm.pause")
    os.truncate(tmp_path / "ram", 8 << 20)
    status, body = daemon.raw("PUT", "vm.snapshot", {"destination_url": f"file://{tmp_path / 'snap'}", "mode": mode})
    assert status == 500 and f"was cut to {8 << 20} bytes, the VM has {MEMORY}" in " ".join(body), body
    assert not (tmp_path / "snap").exists()
    assert daemon.state() == "Paused"


def test_prefaulting_more_than_the_filesystem_has_is_refused_at_boot(start, tiny):
    daemon = start()
    config = daemon.config(bare("pattern"), memory=MEMORY)
    config["memory"].update({"file": str(tiny / "ram"), "prefault": True})
    daemon.put("vm.create", config)
    status, body = daemon.raw("PUT", "vm.boot")
    assert status == 400 and "is full" in " ".join(body), body
    assert daemon.state() == "Created"
