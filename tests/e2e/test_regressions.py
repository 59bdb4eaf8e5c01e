"""Bugs that other monitors had in their snapshots and that no other test here would notice (docs/regressions.md)."""
import re

import pytest

import snapshots
import strace
import vmmd
from vmmd import bare

KVM_KVMCLOCK_CTRL = 0xAEAD


@pytest.fixture(scope="module")
def with_disk(linux, tmp_path_factory):
    folder = tmp_path_factory.mktemp("regressions")
    (folder / "disk").write_bytes(bytes(1 << 20))
    with vmmd.leaving_snapshot(folder) as daemon:
        linux.boot(daemon, cpus=2, disks=[{"id": "d", "path": str(folder / "disk"), "overlay": "memory"}])
    return folder / "snapshot"


def test_a_snapshot_into_the_directory_that_the_vm_came_from_is_refused(start, tmp_path):
    """Firecracker #4301: the memory file that backs the VM was overwritten, and both were lost."""
    first = start()
    first.boot(bare("tick")).expect(r"^tick 3$")
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap")
    first.kill()
    before = snapshots.stamps(tmp_path / "snap")
    (tmp_path / "alias").symlink_to(tmp_path / "snap")
    second = start()
    serial = second.restore(tmp_path / "snap", resume=False)
    for name in ("snap", "alias", "snap/."):
        with pytest.raises(vmmd.ApiError) as refused:
            second.snapshot(tmp_path / name)
        assert refused.value.status in (400, 409), refused.value
    assert snapshots.stamps(tmp_path / "snap") == before
    assert snapshots.judge(tmp_path / "snap") == snapshots.COMPLETE
    second.put("vm.resume")
    serial.ask("fine", r"^echo fine$")


def test_a_restored_driver_notifies_without_an_exit_to_vmmd(start, with_disk):
    """OpenVMM #4146: restored devices had no ioeventfds; everything worked, only slowly."""
    daemon = start()
    serial = daemon.restore(with_disk)
    serial.ask("disk write /dev/vda 7 3 4", "^disk wrote 4$")
    serial.ask("disk check /dev/vda 7 3 4", "^disk checked 4$")
    seen = daemon.get("vm.counters")["disk:d/pci"]
    assert seen["notifications"] > 0 and seen["mmio_notifications"] == 0, seen


def resume_traced(daemon, folder):
    """What KVM answered when it was asked to tell the guest."""
    with strace.Strace(folder / "trace", daemon.process.pid, "-e", "trace=ioctl", "-X", "raw", follow=True) as trace:
        daemon.put("vm.resume")
    return re.findall(rf"ioctl\(\d+, {KVM_KVMCLOCK_CTRL:#x}, .*\) += (.+)", trace.text)


def test_a_guest_with_kvmclock_is_told_that_it_stood_still(start, with_disk, tmp_path):
    """Firecracker #5494: without KVM_KVMCLOCK_CTRL its watchdog takes the pause for a lockup."""
    daemon = start()
    daemon.restore(with_disk, resume=False)
    for _ in range(2):  # after the restore, and after a pause
        assert resume_traced(daemon, tmp_path) == ["0", "0"]
        daemon.put("vm.pause")


@pytest.mark.skipif(vmmd.SANITIZED, reason="sanitizers and ptrace do not go together")
def test_a_guest_without_kvmclock_goes_on_though_it_cannot_be_told(start, tmp_path):
    first = start()
    first.boot(bare("tick")).expect(r"^tick 3$")
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap")
    first.kill()
    second = start()
    serial = second.restore(tmp_path / "snap", resume=False)
    for line in ("after the restore", "after a pause"):
        told, = resume_traced(second, tmp_path)
        assert "EINVAL" in told
        serial.ask(line, f"^echo {line}$")
        second.put("vm.pause")
