"""What is behind a device fails while the guest runs: the guest gets a defined answer, there is an event and a counter,
the VM goes on and can be snapshotted. Taps and passt: test_linux_net.py; a full host: test_linux_disk.py; peers of
vsock: test_linux_vsock.py; RAM: test_lost_memory.py."""
import os
import shutil

import pytest

import strace
import vmmd
from test_device_threads import WITHOUT_IO_URING

SIZE = 16 << 20
PMEM = 4 << 20

with_ptrace = pytest.mark.skipif(vmmd.SANITIZED, reason="sanitizers and ptrace do not go together")


def devices(folder):
    return {"disks": [{"id": "a", "path": str(folder / "a")}], "pmem": [{"id": "p", "file": str(folder / "p")}]}


@pytest.fixture(scope="module")
def saved(linux, tmp_path_factory):
    folder = tmp_path_factory.mktemp("failures")
    for name, size in (("a", SIZE), ("p", PMEM)):
        (folder / name).write_bytes(b"")
        os.truncate(folder / name, size)
    with vmmd.leaving_snapshot(folder) as daemon:
        serial = linux.boot(daemon, more="tick=0", **devices(folder))
        serial.ask("disk write /dev/vda 7 0 64", r"^disk wrote 64$")
    return folder


@pytest.fixture
def restored(start, saved):
    """restored(**how) is (daemon, serial) of a guest with copies of disk and pmem in the daemon's folder."""
    def restore(**how):
        daemon = start(**how)
        for name in ("a", "p"):
            shutil.copy(saved / name, daemon.folder / name)
        return daemon, daemon.restore(saved / "snapshot", overrides=devices(daemon.folder))
    return restore


def failing(daemon, folder, unit, calls):
    """Until its end these system calls of the device's own thread fail with EIO."""
    return strace.Strace(folder / f"trace-{calls}", strace.thread(daemon.process.pid, unit), "-e", f"trace={calls}",
                         "-e", f"inject={calls}:error=EIO")


def told(daemon, unit, what):
    properties = daemon.events.wait("device", "backend-failed")["properties"]
    assert properties["unit"] == unit and what in properties["error"], properties
    assert daemon.get("vm.counters")[unit]["errors"] >= 1


def snapshot_while_failing(daemon, folder):
    daemon.put("vm.pause")
    daemon.snapshot(folder / "snapshot")
    daemon.put("vm.resume")


@with_ptrace
def test_a_disk_with_io_errors_fails_in_the_guest_until_they_end(restored, tmp_path):
    daemon, serial = restored(wrapper=WITHOUT_IO_URING)
    with failing(daemon, tmp_path, "disk:a", "preadv,pwritev2,fdatasync"):
        serial.ask("disk write /dev/vda 9 100 4", r"^disk: record 100 error 5$")
        told(daemon, "disk:a", "Input/output error")
        serial.ask("disk check /dev/vda 7 0 4", r"^disk: record 0 bad, read 18446744073709551611")  # -EIO
        snapshot_while_failing(daemon, tmp_path)
    serial.ask("disk write /dev/vda 9 100 4", r"^disk wrote 4$")
    serial.ask("disk check /dev/vda 9 100 4", r"^disk checked 4$")
    serial.ask("disk check /dev/vda 7 0 64", r"^disk checked 64$")


def test_a_disk_whose_image_is_cut_fails_in_the_guest_until_it_is_whole(restored, tmp_path):
    daemon, serial = restored()
    os.truncate(daemon.folder / "a", 0)
    serial.ask("disk check /dev/vda 7 0 4", r"^disk: record 0 bad, read 18446744073709551611")
    told(daemon, "disk:a", "Input/output error")
    snapshot_while_failing(daemon, tmp_path)
    os.truncate(daemon.folder / "a", SIZE)
    serial.ask("disk write /dev/vda 9 0 64", r"^disk wrote 64$")
    serial.ask("disk check /dev/vda 9 0 64", r"^disk checked 64$")


@with_ptrace
def test_a_flush_of_pmem_that_fails_is_an_error_in_the_guest(restored, tmp_path):
    daemon, serial = restored(wrapper=WITHOUT_IO_URING)
    with failing(daemon, tmp_path, "pmem:p", "fdatasync"):
        serial.ask("file write /dev/pmem0 3 0 64", r"^file: error 5$")
        told(daemon, "pmem:p", "cannot flush")
        snapshot_while_failing(daemon, tmp_path)
    serial.ask("file write /dev/pmem0 3 0 64", r"^ok \w+$")


def test_pmem_whose_file_is_cut_ends_the_vm_with_a_reason_and_not_the_daemon(restored):
    daemon, serial = restored()
    serial.ask("file write /dev/pmem0 3 0 64", r"^ok \w+$")
    os.truncate(daemon.folder / "p", 4096)
    serial.send("file write /dev/pmem0 4 64 64")
    properties = daemon.events.wait("guest", "crashed")["properties"]
    assert properties["reason"] == "memory-lost" and "pmem" in properties["message"]
    daemon.events.wait("vm", "shutdown")
    assert daemon.state() == "Shutdown"
    daemon.put("vm.delete")
    assert daemon.raw("GET", "vm.info")[0] == 404


@pytest.mark.guest
@pytest.mark.parametrize("discard", [False, True], ids=["kept", "discarded"])
def test_no_snapshot_is_made_of_pmem_that_was_cut(start, tmp_path, discard):
    file = tmp_path / "p"
    file.write_bytes(b"content" + bytes(PMEM - 7))
    daemon = start()
    daemon.boot(vmmd.bare("pattern"), pmem=[{"id": "p", "file": str(file), "discard_writes": discard}]).ask("w 7 2 4", "^ok ")
    daemon.put("vm.pause")
    os.truncate(file, 4096)
    status, messages = daemon.raw("PUT", "vm.snapshot", {"destination_url": f"file://{tmp_path / 'snap'}"})
    assert status == 500 and f"was cut to 4096 bytes, the guest has {PMEM}" in " ".join(messages)
    assert not (tmp_path / "snap").exists() and daemon.state() == "Paused"
