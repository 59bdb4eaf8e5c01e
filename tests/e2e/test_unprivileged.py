"""vmmd needs no root: a user who may open /dev/kvm, and nothing else, runs a guest with a disk and a network."""
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

import linux as linux_guest
import netns
import vmmd
from test_linux_net import passt_at, through_passt

NOBODY = 65534
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
# In a mount namespace of its own the user's /dev/kvm is another node for the same device; the host's stays as it is.
WITH_KVM = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /dev/kvm && exec "$@"']


@pytest.fixture
def home(monkeypatch):
    """A folder of that user's with vmmd in it, and a node for KVM."""
    with tempfile.TemporaryDirectory(prefix="vmmd-nobody-") as folder:
        path = pathlib.Path(folder)
        shutil.copy(vmmd.VMMD, path / "vmmd")
        try:
            os.mknod(path / "kvm", 0o600 | 0o020000, os.stat("/dev/kvm").st_rdev)
            for name in (path, path / "kvm"):
                os.chown(name, NOBODY, NOBODY)
            subprocess.run([*WITH_KVM, path / "kvm", *AS_NOBODY, "dd", "if=/dev/kvm", "count=0"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"VMMD WITHOUT ROOT IS NOT TESTED HERE: {error}: {getattr(error, 'stderr', '')}")
        monkeypatch.setattr(vmmd, "VMMD", path / "vmmd")
        yield path


@pytest.fixture
def namespace():
    with netns.namespace():
        yield


def private(path):
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    return path


def test_a_user_who_is_not_root_boots_snapshots_and_restores_with_passt(request, linux, namespace, home):
    netns.ip("tuntap", "add", "out", "mode", "tap")
    netns.ip("addr", "add", "192.0.2.2/24", "dev", "out")
    netns.ip("link", "set", "out", "up")
    netns.ip("route", "add", "default", "via", "192.0.2.1")
    guest = linux_guest.Linux(home / "vmlinux", home / "initramfs", linux.stock)
    shutil.copy(linux.kernel, guest.kernel)
    shutil.copy(linux.initramfs, guest.initramfs)
    image = home / "disk"
    image.write_bytes(bytes(1 << 20))
    os.chown(image, NOBODY, NOBODY)
    wrapper = [*WITH_KVM, home / "kvm", *AS_NOBODY]
    first, second = (vmmd.Daemon(private(home / name), wrapper=wrapper) for name in ("first", "second"))
    request.node.daemons = [first, second]
    try:
        with passt_at(home / "passt", wrapper=AS_NOBODY):
            serial = guest.boot(first, net=[{"id": "n", "passt": str(home / "passt")}], disks=[{"path": str(image)}])
            status = pathlib.Path(f"/proc/{first.process.pid}/status").read_text()
            assert f"Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}" in status and "CapEff:\t0000000000000000" in status, status
            serial.ask("net up eth0 10.79.0.2 24", "^net up$")
            through_passt(serial)
            serial.ask("disk write /dev/vda 5 8 8", "^disk wrote 8$")
            first.put("vm.pause")
            first.snapshot(home / "snap")
            first.kill()
        with passt_at(home / "passt2", wrapper=AS_NOBODY):
            serial = second.restore(home / "snap", overrides={"net": [{"id": "n", "passt": str(home / "passt2")}]})
            through_passt(serial)
            serial.ask("disk check /dev/vda 5 8 8", "^disk checked 8$")
            assert second.stop() == 0
    finally:
        first.kill()
        second.kill()
