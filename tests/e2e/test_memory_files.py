"""memory.file beside snapshots: what becomes of it when a VM ends, boots again or fails to become a snapshot."""
import subprocess

import pytest

import snapshots
import strace
from vmmd import SANITIZED, bare

pytestmark = pytest.mark.guest

MEMORY = 16 << 20
FIRST, SECOND = "7 2 6", "9 2 8"  # patterns: seed and MiB from, to
OK = r"^ok \w+$"  # to the end of the line: a reboot cuts off what the guest still says


def boot_in_file(daemon, file):
    config = daemon.config(bare("pattern"), memory=MEMORY)
    config["memory"]["file"] = str(file)
    daemon.put("vm.create", config)
    daemon.put("vm.boot")
    serial = daemon.serial()
    serial.ask(f"w {FIRST}", OK)
    return serial


def boot_again(daemon, way):
    """The serial line stays connected: the guest starts over behind it."""
    for command in ("vm.reboot",) if way == "reboot" else ("vm.shutdown", "vm.boot"):
        daemon.put(command)
    return daemon.serials[-1]


def link(daemon, folder):
    daemon.put("vm.pause")
    daemon.snapshot(folder, mode="link")
    daemon.jobs_end()
    daemon.put("vm.resume")


@pytest.mark.parametrize("mode", ["cow", "shared"])
def test_a_restored_vm_boots_again_without_touching_the_file_that_its_forebear_lives_in(start, tmp_path, mode):
    first = start()
    first_line = boot_in_file(first, tmp_path / "ram")
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap", mode="copy")
    first.put("vm.resume")
    inode = (tmp_path / "ram").stat().st_ino
    second = start()
    line = second.restore(tmp_path / "snap", memory_restore_mode=mode)
    line.ask(f"c {FIRST}", OK)
    assert "file" not in second.get("vm.info")["config"]["memory"]
    second.put("vm.reboot")
    line.expect(r"^pattern ready$")
    line.ask(f"w {SECOND}", OK)
    assert (tmp_path / "ram").stat().st_ino == inode
    first_line.ask(f"c {FIRST}", OK)


def test_a_memory_file_is_no_override_where_memory_is_not_copied(start, tmp_path):
    first = start()
    first_line = boot_in_file(first, tmp_path / "ram")
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap", mode="copy")
    first.put("vm.resume")
    second = start()
    body = {"source_url": f"file://{tmp_path / 'snap'}", "overrides": {"memory": {"file": str(tmp_path / "ram")}}}
    status, messages = second.raw("PUT", "vm.restore", body)
    assert status == 400 and "memory_restore_mode copy" in " ".join(messages), messages
    first_line.ask(f"c {FIRST}", OK)


def test_what_a_guest_writes_in_a_shared_restore_is_in_memory_bin(start, tmp_path):
    first = start()
    boot_in_file(first, tmp_path / "ram")
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap", mode="copy")
    first.kill()
    memory = tmp_path / "snap" / "memory.bin"
    before = memory.read_bytes()
    second = start()
    second.restore(tmp_path / "snap", memory_restore_mode="shared").ask(f"w {SECOND}", OK)
    after = memory.read_bytes()
    kept = [at for at in range(2 << 20, 8 << 20, 4096) if before[at:at + 4096] == after[at:at + 4096]]
    assert not kept, f"{len(kept)} pages that the guest wrote are as they were"


@pytest.mark.parametrize("way", ["reboot", "shutdown and boot"])
def test_after_a_link_the_vm_boots_again_in_a_new_file_and_the_snapshot_stays(start, tmp_path, way):
    daemon = start()
    boot_in_file(daemon, tmp_path / "ram")
    link(daemon, tmp_path / "snap")
    serial = boot_again(daemon, way)
    serial.expect(r"^pattern ready$")
    serial.ask(f"w {SECOND}", OK)
    assert not (tmp_path / "ram").samefile(tmp_path / "snap" / "memory.bin")
    assert snapshots.judge(tmp_path / "snap") == "complete"
    link(daemon, tmp_path / "next")
    start().restore(tmp_path / "snap").ask(f"c {FIRST}", OK)
    start().restore(tmp_path / "next").ask(f"c {SECOND}", OK)


def test_after_a_link_the_same_vm_can_be_created_anew(start, tmp_path):
    daemon = start()
    boot_in_file(daemon, tmp_path / "ram")
    link(daemon, tmp_path / "snap")
    daemon.put("vm.delete")
    boot_in_file(daemon, tmp_path / "ram")
    assert snapshots.judge(tmp_path / "snap") == "complete"


@pytest.mark.parametrize("way", ["reboot", "shutdown and boot"])
def test_when_the_linked_snapshot_is_gone_its_memory_is_the_vms_again(start, tmp_path, way):
    daemon = start()
    boot_in_file(daemon, tmp_path / "ram")
    link(daemon, tmp_path / "snap")
    for file in (tmp_path / "snap").iterdir():
        file.unlink()
    inode = (tmp_path / "ram").stat().st_ino
    boot_again(daemon, way).expect(r"^pattern ready$")
    assert (tmp_path / "ram").stat().st_ino == inode


def test_the_memory_of_a_snapshot_is_refused_with_what_to_do(start, tmp_path):
    first = start()
    boot_in_file(first, tmp_path / "ram")
    link(first, tmp_path / "snap")
    first.kill()
    second = start()
    for file, advice in ((tmp_path / "ram", f"remove the name {tmp_path}/ram"), (tmp_path / "snap" / "memory.bin", "give another file")):
        config = second.config(bare("pattern"), memory=MEMORY)
        config["memory"]["file"] = str(file)
        second.put("vm.create", config)
        status, body = second.raw("PUT", "vm.boot")
        assert status == 409 and advice in " ".join(body), body
        second.put("vm.delete")
    (tmp_path / "ram").unlink()
    boot_in_file(second, tmp_path / "ram")
    assert snapshots.judge(tmp_path / "snap").startswith("complete")


@pytest.mark.skipif(SANITIZED, reason="sanitizers and ptrace do not go together")
def test_a_link_that_fails_leaves_the_file_to_its_vm(start, tmp_path):
    daemon = start()
    serial = boot_in_file(daemon, tmp_path / "ram")
    daemon.put("vm.pause")
    inode = (tmp_path / "ram").stat().st_ino
    with strace.Strace(tmp_path / "trace", strace.thread(daemon.process.pid, "vm"), "-e", "inject=renameat2:error=EIO"):
        status, _ = daemon.raw("PUT", "vm.snapshot", {"destination_url": f"file://{tmp_path / 'snap'}", "mode": "link"})
    assert status == 500
    # RAM was taken out of the file before; the message does not send the user to what he has.
    status, body = daemon.raw("PUT", "vm.snapshot", {"destination_url": f"file://{tmp_path / 'snap'}", "mode": "link"})
    assert status == 400 and "booted again" in " ".join(body), body
    daemon.put("vm.resume")
    serial.ask(f"c {FIRST}", OK)
    daemon.put("vm.reboot")
    serial.expect(r"^pattern ready$")
    assert (tmp_path / "ram").stat().st_ino == inode
    link(daemon, tmp_path / "snap")


def test_auto_clones_a_file_that_cannot_be_linked(start, xfs):
    folder = xfs / "auto"
    folder.mkdir()
    daemon = start()
    serial = boot_in_file(daemon, folder / "ram")
    (folder / "ram").unlink()  # what has no name gets none again
    daemon.put("vm.pause")
    assert daemon.snapshot(folder / "snap", mode="auto")["mode"] == "reflink"
    daemon.jobs_end()
    daemon.put("vm.resume")
    serial.ask(f"w {SECOND}", OK)  # into its own file
    assert snapshots.judge(folder / "snap") == "complete"
    start().restore(folder / "snap").ask(f"c {FIRST}", OK)


@pytest.mark.skipif(SANITIZED, reason="sanitizers and ptrace do not go together")
@pytest.mark.parametrize("error", ["EXDEV", "EPERM", "EMLINK", "EOPNOTSUPP"])
def test_auto_goes_on_where_a_link_is_not_possible(start, tmp_path, error):
    daemon = start()
    boot_in_file(daemon, tmp_path / "ram")
    daemon.put("vm.pause")
    clones = subprocess.run(["cp", "--reflink=always", tmp_path / "ram", tmp_path / "clone"], check=False).returncode == 0
    vm = strace.thread(daemon.process.pid, "vm")
    with strace.Strace(tmp_path / "trace", vm, "-e", f"inject=linkat:error={error}"):
        assert daemon.snapshot(tmp_path / "snap", mode="auto")["mode"] == ("reflink" if clones else "copy")
    daemon.jobs_end()
    start().restore(tmp_path / "snap").ask(f"c {FIRST}", OK)
