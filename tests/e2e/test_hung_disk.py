"""A disk whose host hangs: its filesystem is frozen, so that what the guest writes neither fails nor ends."""
import contextlib
import pathlib
import subprocess

import pytest

import vmmd
from snapshots import thread_name
from test_linux_disk import boot, disk, image

MIB = 1 << 20


@pytest.fixture
def frozen(tmp_path):
    """(a mounted filesystem, what freezes it): thawed and gone at the end, whatever happens."""
    mount = tmp_path / "mount"
    mount.mkdir()
    whole = image(tmp_path / "filesystem", 96 * MIB)
    subprocess.run(["mkfs.ext4", "-q", whole], check=True, stdout=subprocess.DEVNULL)
    if subprocess.run(["mount", "-o", "loop", whole, mount], capture_output=True, check=False).returncode != 0:
        pytest.skip("HUNG DISKS ARE NOT TESTED: no filesystem can be mounted from a file here")
    with contextlib.ExitStack() as stack:
        stack.callback(subprocess.run, ["umount", "-l", mount], check=True)

        def freeze():
            subprocess.run(["fsfreeze", "-f", mount], check=True)
            stack.callback(subprocess.run, ["fsfreeze", "-u", mount], check=False, capture_output=True)

        yield mount, freeze


def hangs(daemon):
    """Whether one of vmmd's threads waits for the host, and not for us."""
    tasks = pathlib.Path(f"/proc/{daemon.process.pid}/task")
    for task in tasks.iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            name, _, rest = (task / "stat").read_text().partition(") ")
            if rest[0] == "D" and ("iou-wrk" in name or "disk:" in name):
                return True
    return False


def test_a_vm_whose_disk_hangs_goes_on_and_ends_and_so_does_vmmd(linux, start, frozen, tmp_path):
    mount, freeze = frozen
    daemon = start()
    events = daemon.events
    other = disk(image(tmp_path / "other.img", MIB), "other")
    serial = boot(linux, daemon, disk(image(mount / "data.img", 16 * MIB)), other, more="tick=0", balloon={"size": 0},
                  vsock={"cid": 3, "socket": str(tmp_path / "v")})
    serial.ask("disk start /dev/vda 5 2 16", r"^disk writing$")
    vmmd.eventually(lambda: daemon.get("vm.counters")["disk:data"]["writes"] > 8)
    freeze()
    vmmd.eventually(lambda: hangs(daemon))

    # A pause has a bound, blames the disk alone and leaves the VM as it was.
    with pytest.raises(vmmd.ApiError) as refused:
        daemon.put("vm.pause")
    late = "a device did not complete what is in flight within 10000 ms: disk:data"
    assert (refused.value.status, refused.value.messages[-1]) == (500, late), refused.value.text
    assert daemon.state() == "Running"
    serial.ask("echo still here", "^echo still here$")
    serial.ask("disk write /dev/vdb 7 0 8", "^disk wrote 8$")

    # So has the end of the VM: what it has open stays so, and the daemon can have another VM.
    daemon.put("vm.delete")
    assert "the VM's memory stays allocated" in daemon.log.read_text()
    config = {"serial": {"mode": "Null"}, "disks": [disk(mount / "data.img")], "payload": {"kernel": vmmd.bare("pattern")}}
    status, messages = daemon.raw("PUT", "vm.create", config)
    assert status == 409 and "data.img is in use" in " ".join(messages)
    config["disks"] = [disk(image(tmp_path / "third.img", MIB))]
    config["serial"] = {"mode": "Socket", "socket": str(tmp_path / "serial")}
    daemon.put("vm.create", config)
    daemon.put("vm.boot")
    with contextlib.closing(vmmd.Serial(tmp_path / "serial")) as line:
        line.ask("w 7 2 4", "^ok ")
    daemon.put("vm.pause")
    daemon.put("vm.delete")

    # And so has vmmd; only the kernel keeps the process until the host answers.
    daemon.process.terminate()
    events.wait("vmm", "shutdown")
    vmmd.eventually(lambda: thread_name(daemon.process.pid, daemon.process.pid) == "" or hangs(daemon))
    subprocess.run(["fsfreeze", "-u", mount], check=True)
    assert daemon.wait_exit() == 0
