"""Where a snapshot cannot go: each case has its own message, and whatever is there stays as it is."""
import contextlib
import os
import subprocess

import pytest

from remote import environment, fails, ok
from vmmd import REMOTE, bare

pytestmark = pytest.mark.guest


@contextlib.contextmanager
def tmpfs(where, options):
    where.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tiny", where], capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)


@pytest.fixture
def vm(daemon):
    """A paused VM, and how it refuses a destination."""
    daemon.boot(bare("pattern")).ask("w 3", r"^ok ")
    daemon.put("vm.pause")
    return daemon


def refusal(vm, destination):
    before = tree(destination.parent)
    status, body = vm.raw("PUT", "vm.snapshot", {"destination_url": f"file://{destination}"})
    assert status >= 400 and vm.state() == "Paused", (status, body)
    assert tree(destination.parent) == before
    assert body[0] == "vm.snapshot failed"
    return status, "\n".join(body[1:])


def tree(folder):
    return sorted(str(path) for path in folder.rglob("*")) if folder.is_dir() else folder.exists()


def make_full_directory(path):
    path.mkdir()
    (path / "mine").write_text("mine")


def make_symlink(path):
    (path.parent / "elsewhere").mkdir()
    path.symlink_to("elsewhere")


CASES = {
    "a file": (lambda path: path.write_text("mine"), 409, "{} exists and is not a directory"),
    "a symbolic link": (make_symlink, 409, "{} is a symbolic link: name the directory itself"),
    "a symbolic link to nothing": (lambda path: path.symlink_to("nothing"), 409, "{} is a symbolic link"),
    "not empty": (make_full_directory, 409, "{} is not empty: a snapshot needs a new or an empty directory"),
    "a FIFO": (os.mkfifo, 409, "{} exists and is not a directory"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_there_already(vm, tmp_path, case):
    make, code, text = CASES[case]
    place = tmp_path / "one"
    make(place)
    status, said = refusal(vm, place)
    assert status == code and text.format(place) in said, (status, said)


def test_a_snapshot_is_there_already(vm, tmp_path):
    vm.snapshot(tmp_path / "one")
    assert refusal(vm, tmp_path / "one") == (409, f"{tmp_path}/one is already a snapshot: choose another name, or delete it first")


def test_no_parent(vm, tmp_path):
    assert refusal(vm, tmp_path / "no" / "one") == (400, f"the parent directory {tmp_path}/no does not exist: create it first")
    (tmp_path / "file").write_text("mine")
    assert refusal(vm, tmp_path / "file" / "one") == (400, f"the parent {tmp_path}/file is not a directory")


def test_a_name_that_leaves_no_room_for_its_hidden_one(vm, tmp_path):
    status, said = refusal(vm, tmp_path / ("n" * 255))
    assert status == 413 and "is too long" in said


def test_a_read_only_filesystem(vm, tmp_path):
    with tmpfs(tmp_path / "fs", "size=1m,ro") as folder:
        assert refusal(vm, folder / "one") == (400, f"cannot make the snapshot's directory in {folder}: the filesystem is read-only")


def test_a_mount_point(vm, tmp_path):
    with tmpfs(tmp_path / "fs", "size=1m") as folder:
        assert refusal(vm, folder) == (400, f"{folder} is a mount point: name a directory inside it")


def test_a_full_disk_says_where_and_how_much_is_needed(vm, tmp_path):
    with tmpfs(tmp_path / "fs", "size=2m") as folder:
        (folder / "mine").write_bytes(b"x" * 4096)
        status, said = refusal(vm, folder / "one")
        first, second = said.split("\n")
        assert status == 500 and first.startswith(f"cannot write the snapshot {folder}/one: its filesystem has 2 MiB for it, and its memory")
        assert first.endswith(" MiB; nothing of it is left")
        assert second == "cannot write memory.bin: the disk is full; free space and try again"
        subprocess.run(["mount", "-o", "remount,size=100m", folder], check=True)
        vm.snapshot(folder / "one")
        ok(None, "snapshot", "verify", folder / "one")


def test_labels_that_cannot_be_kept(vm, tmp_path):
    body = {"destination_url": f"file://{tmp_path}/one", "labels": {"a\nb": "x", "": "y"}}
    assert vm.raw("PUT", "vm.snapshot", body) == (400, ["vm.snapshot failed", "/labels/: a label's name has 1 to 128 bytes, not 0",
                                                       '/labels/a?b: a label\'s name has no control characters ("?" here)'])


def test_relative_paths_are_those_of_vmm_remote_and_not_of_the_daemon(vm, tmp_path):
    here = tmp_path / "here"
    (here / "below").mkdir(parents=True)

    def run(*words):
        return subprocess.run([REMOTE, *words], cwd=here / "below", env=environment(vm), capture_output=True, text=True, check=False)

    assert run("snapshot", "../one").returncode == 0
    assert (here / "one" / "manifest.bin").exists()
    vm.put("vm.delete")
    assert (run("restore", "nowhere").returncode, f"there is no snapshot at {here}/below/nowhere" in run("restore", "nowhere").stderr) == (1, True)
    assert run("restore", "../one").returncode == 0 and vm.state() == "Paused"
    # Over the socket nobody can know whose directory is meant.
    for command, field in (("vm.snapshot", "destination_url"), ("vm.restore", "source_url")):
        for text in ("one", "./one", "file://one"):
            assert vm.raw("PUT", command, {field: text}) == (
                400, [f"{command} failed", f'/{field}: "{text}" is a relative path: write file:///absolute/directory'])
    assert "did you mean `snapshot list`" in fails(vm, "snapshot", "lst", code=2)
