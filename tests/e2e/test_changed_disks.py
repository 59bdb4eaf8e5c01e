"""Disks are not part of a snapshot: it says which files they were, and a restore refuses others. The guest knows no
driver for what it has."""
import os

import pytest

from remote import as_json, ok, remote
from vmmd import bare

pytestmark = pytest.mark.guest

SIZE = 2 << 20


def device(kind, store):
    return {"pmem": [{"id": "store", "file": str(store)}]} if kind == "pmem" else {"disks": [{"id": "store", "path": str(store)}]}


@pytest.fixture(params=["disk", "pmem"])
def kind(request):
    return request.param


@pytest.fixture
def saved(start, tmp_path, kind):
    """(snapshot, file) of a VM that has gone."""
    store = tmp_path / "store.img"
    store.write_bytes(b"first" + bytes(SIZE - 5))
    daemon = start()
    daemon.boot(bare("tick"), **device(kind, store)).expect(r"^tick 3$")
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snap")
    daemon.stop()
    return tmp_path / "snap", store


def refusal(start, snap, **overrides):
    status, body = start().raw("PUT", "vm.restore", {"source_url": f"file://{snap}", "overrides": {"serial": {"mode": "Null"}, **overrides}})
    assert status == 400, (status, body)
    return body


def test_the_snapshot_says_which_files_its_disks_were(saved, kind):
    snap, store = saved
    disk, = as_json(None, "snapshot", "info", snap)["result"]["disks"]
    assert disk == {"id": "store", "path": str(store), "size_bytes": SIZE, "mtime_ns": store.stat().st_mtime_ns,
                    "role": kind, "readonly": False}
    assert f"store: {store}, 2 MiB" in ok(None, "snapshot", "info", snap)


def test_an_unchanged_disk_is_taken(start, saved):
    snap, _ = saved
    ok(None, "snapshot", "check", snap)
    start().restore(snap).expect(r"^tick \d+$")


def test_a_changed_disk_is_refused_and_a_copy_or_the_same_by_name_is_taken(start, saved, kind, tmp_path):
    snap, store = saved
    copy = tmp_path / "copy.img"
    copy.write_bytes(store.read_bytes())
    store.write_bytes(b"other" + bytes(SIZE - 5))
    said = " ".join(refusal(start, snap))
    assert f"disk store: {store} was changed after the snapshot" in said
    checked = remote(None, "snapshot", "check", snap)
    assert checked.returncode != 0 and "was changed after the snapshot" in checked.stderr
    start().restore(snap, overrides=device(kind, copy)).expect(r"^tick \d+$")
    start().restore(snap, overrides=device(kind, store)).expect(r"^tick \d+$")


def test_missing_and_resized_disks_are_said_with_everything_else(start, saved, kind, tmp_path):
    snap, store = saved
    os.truncate(snap / "memory.bin", 4096)
    larger = tmp_path / "larger.img"
    larger.write_bytes(bytes(2 * SIZE))
    body = refusal(start, snap, **device(kind, larger))
    assert len(body) == 4 and f"{larger} has {2 * SIZE} bytes, the guest knows {SIZE}" in " ".join(body), body
    store.unlink()
    said = " ".join(refusal(start, snap))
    assert str(store) in said and "No such file" in said and "memory.bin has 4096 bytes" in said


def test_a_disk_that_is_gone_keeps_a_snapshot_from_being_written(start, kind, tmp_path):
    store = tmp_path / "store.img"
    store.write_bytes(bytes(SIZE))
    daemon = start()
    daemon.boot(bare("tick"), **device(kind, store)).expect(r"^tick 3$")
    store.rename(tmp_path / "elsewhere.img")
    status, body = daemon.raw("PUT", "vm.snapshot", {"destination_url": f"file://{tmp_path / 'snap'}", "pause": True})
    assert status == 400 and f"{store} is missing" in " ".join(body)
    assert not (tmp_path / "snap").exists() and daemon.state() == "Running"
    (tmp_path / "elsewhere.img").rename(store)
    daemon.snapshot(tmp_path / "snap", pause=True)
