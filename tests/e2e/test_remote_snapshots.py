"""`vmm-remote snapshot …` on directories, without a daemon."""
import json
import os
import pathlib
import shutil
import subprocess

import pytest

from remote import AtTerminal, as_json, fails, ok, remote
from vmmd import REMOTE, bare

pytestmark = pytest.mark.guest


@pytest.fixture
def snapshots(start, tmp_path):
    """A folder with the snapshots "one" and "two"; their daemon has gone."""
    folder = tmp_path / "snapshots"
    folder.mkdir()
    daemon = start()
    daemon.boot(bare("pattern"))
    daemon.snapshot(folder / "one", pause=True, labels={"app": "web"})
    daemon.snapshot(folder / "two")
    daemon.put("vm.delete")
    daemon.stop()
    return folder


def test_list_for_people(snapshots):
    (snapshots / "not-one").mkdir()
    lines = ok(None, "snapshot", "list", snapshots).splitlines()
    assert lines[0].split() == ["NAME", "AGE", "RAM", "ON", "DISK", "CPUS", "STATE", "LABELS"]
    assert [line.split()[0] for line in lines[1:]] == ["one", "two"]
    assert "64 MiB" in lines[1] and lines[1].endswith("complete  app=web")
    assert lines[2].endswith("complete")


def test_list_for_scripts(snapshots):
    one, two = as_json(None, "snapshot", "list", snapshots)["result"]
    assert one["path"] == str(snapshots / "one")
    assert (one["memory_size_bytes"], one["vcpus"], one["state"]) == (64 << 20, 1, "complete")
    assert two["labels"] == {} and two["problems"] == []
    assert one["snapshot_id"] != two["snapshot_id"]
    assert one["size_on_disk_bytes"] == sum(
        file.stat().st_blocks * 512 for file in (snapshots / "one").iterdir())


def test_list_shows_torn_ones(snapshots):
    (snapshots / "two" / "state.bin").unlink()
    (snapshots / "one" / "manifest.bin").write_bytes(b"x")
    one, two = as_json(None, "snapshot", "list", snapshots)["result"]
    assert (one["state"], two["state"]) == ("torn", "torn")
    assert "state.bin" in " ".join(two["problems"])
    assert "torn" in ok(None, "snapshot", "list", snapshots)


def test_list_shows_what_cannot_be_read_and_why(snapshots):
    (snapshots / "one").chmod(0)
    (snapshots / "two" / "manifest.bin").chmod(0)
    # Root without what lets it read everything is like others here.
    drop = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    text, script = (subprocess.run([*drop, REMOTE, "snapshot", "list", snapshots, *more], check=True, capture_output=True, text=True).stdout
                    for more in ([], ["--json"]))
    (snapshots / "one").chmod(0o700)
    lines = text.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "one", "two", "one:", "two:"]
    assert "unreadable" in lines[1] and "unreadable" in lines[2]
    assert str(snapshots / "one") in lines[3] and "Permission denied" in lines[3]
    assert "manifest.bin" in lines[4] and "Permission denied" in lines[4]
    for found in json.loads(script)["result"]:
        assert found["state"] == "unreadable" and "Permission denied" in found["problems"][0]


def test_list_of_nothing(tmp_path):
    assert "no snapshots" in ok(None, "snapshot", "list", tmp_path)
    assert as_json(None, "snapshot", "list", tmp_path)["result"] == []
    fails(None, "snapshot", "list", tmp_path / "none")


def test_info_tells_everything(snapshots):
    text = ok(None, "snapshot", "info", snapshots / "one")
    for word in ("complete", "app=web", "64 MiB", "full, captured by copy", "serial0", "state.bin"):
        assert word in text
    info = as_json(None, "snapshot", "info", f"file://{snapshots}/one")["result"]
    assert {unit["name"] for unit in info["units"]} >= {"vm", "vcpu0", "serial0", "ioapic"}
    assert sum(part["length"] for part in info["memory_layout"]) == 64 << 20
    assert {file["name"] for file in info["files"]} >= {"state.bin", "memory.bin", "config.json"}
    assert info["config"] == json.loads((snapshots / "one" / "config.json").read_text())
    assert info["config"]["memory"]["size"] == 64 << 20
    fails_text = remote(None, "snapshot", "info", snapshots)
    assert fails_text.returncode == 1 and "is not a snapshot" in fails_text.stderr


def test_check_says_what_restore_would(snapshots):
    one = snapshots / "one"
    assert ok(None, "snapshot", "check", one) == f"{one} can be restored here\n"
    (one / "config.json").write_text((one / "config.json").read_text().replace("67108864", "67108865"))
    with open(one / "memory.bin", "ab") as memory:
        memory.write(b"x")
    text = fails(None, "snapshot", "check", one)
    assert f"0: cannot restore {one}" in text
    assert "config.json was edited" in text and "memory.bin has 67108865 bytes" in text
    assert len(as_json(None, "snapshot", "check", one)["result"]["problems"]) == 2


def test_check_and_restore_agree(snapshots, daemon):
    one = snapshots / "one"
    (one / "state.bin").write_bytes(b"x" * (one / "state.bin").stat().st_size)
    checked = as_json(None, "snapshot", "check", one)["error"]["messages"]
    restored = as_json(daemon, "restore", one)["error"]["messages"]
    assert restored == ["vm.restore failed", *checked]


def test_what_is_wrong_with_overrides_hides_nothing(snapshots, daemon):
    one = snapshots / "one"
    os.truncate(one / "memory.bin", 4096)
    overrides = json.dumps({"serial": {"mode": "Socket", "socket": "/no/such/folder/s"}, "disks": [{"path": "/x"}],
                            "cpus": {"max_vcpus": 2}, "seriel": {}})
    checked = as_json(None, "snapshot", "check", one, "--overrides", overrides)["error"]["messages"]
    assert as_json(daemon, "restore", one, "--overrides", overrides)["error"]["messages"] == ["vm.restore failed", *checked]
    for part in ("memory.bin has 4096 bytes", "/serial/socket: cannot create", "/cpus/max_vcpus: the guest would see",
                 "/seriel: unknown field"):
        assert sum(part in message for message in checked) == 1, (part, checked)


def test_check_names_who_keeps_a_shared_restore_out(snapshots, start):
    one = snapshots / "one"
    clone = start()
    clone.restore(one)
    text = ok(None, "snapshot", "check", one)
    used = f"memory.bin of {one} is in use by another VM (pid {clone.process.pid})"
    assert text == f"note: memory_restore_mode shared would be refused: {used}\n{one} can be restored here\n"
    request = {"source_url": f"file://{one}", "memory_restore_mode": "shared", "overrides": {"serial": {"mode": "Null"}}}
    assert start().raw("PUT", "vm.restore", request) == (409, ["vm.restore failed", used])
    clone.put("vm.delete")
    assert ok(None, "snapshot", "check", one) == f"{one} can be restored here\n"


def test_check_tries_overrides(snapshots):
    one = snapshots / "one"
    ok(None, "snapshot", "check", one, "--overrides", '{"serial":{"mode":"Null"}}')
    assert "guest would see" in fails(None, "snapshot", "check", one, "--overrides", '{"cpus":{"max_vcpus":2}}')


def test_verify_finds_what_changed(snapshots):
    one = snapshots / "one"
    assert "is intact" in ok(None, "snapshot", "verify", one)
    with open(one / "memory.bin", "r+b") as memory:
        for place in (5 << 20, 7 << 20, 40 << 20):
            memory.seek(place)
            old = memory.read(1)
            memory.seek(place)
            memory.write(bytes([old[0] ^ 0x40]))
    run = remote(None, "snapshot", "verify", one)
    assert run.returncode == 1
    assert run.stdout.splitlines()[1].split() == ["4", "MiB", "0x400000", "0x400000"]
    assert "damaged in 2 places" in run.stderr
    damaged = as_json(None, "snapshot", "verify", one)["result"]["damaged"]
    assert damaged == [{"file_offset": 4 << 20, "guest_address": 4 << 20, "length": 4 << 20},
                       {"file_offset": 40 << 20, "guest_address": 40 << 20, "length": 2 << 20}]


def test_verify_tells_all_that_is_damaged(start, tmp_path):
    (tmp_path / "image").write_bytes(bytes(1 << 20))
    daemon = start()
    daemon.boot(bare("pattern"), disks=[{"id": name, "path": str(tmp_path / "image"), "overlay": "memory"} for name in ("a", "b", "c")])
    snap = tmp_path / "snap"
    daemon.snapshot(snap, pause=True)
    for file, place in (("memory.bin", 5 << 20), ("disk-a.bin", 3), ("disk-c.bin", 4)):
        with open(snap / file, "r+b") as damaged:
            damaged.seek(place)
            damaged.write(b"!")
    run = remote(None, "snapshot", "verify", snap)
    assert run.returncode == 1
    assert run.stdout.splitlines()[1].split() == ["2", "MiB", "0x400000", "0x400000"]
    assert [line.split(": ", 1)[1] for line in run.stderr.splitlines()[1:]] == [
        f"{snap} is damaged", "memory.bin is damaged in 1 places", "disk-a.bin is damaged: its digest differs",
        "disk-c.bin is damaged: its digest differs"], run.stderr
    result = as_json(None, "snapshot", "verify", snap)["result"]
    assert [found["file_offset"] for found in result["damaged"]] == [4 << 20]
    assert result["damaged_layers"] == ["disk-a.bin", "disk-c.bin"]


def test_verify_at_a_terminal_shows_how_far_it_is_and_leaves_only_its_verdict(snapshots):
    with AtTerminal(None, "snapshot", "verify", snapshots / "one") as run:
        run.expect(r"verify \[=* *\] +\d+%  \d+ MiB of ")
        run.expect(r"\r\x1b\[K.*/one is intact: ")
        assert run.end() == 0


def test_delete_takes_the_snapshot_and_nothing_else(snapshots):
    assert ok(None, "snapshot", "delete", snapshots / "one") == ""
    assert [entry.name for entry in snapshots.iterdir()] == ["two"]
    (snapshots / "two" / "mine.txt").write_text("mine")
    assert "mine.txt" in fails(None, "snapshot", "delete", snapshots / "two")
    assert (snapshots / "two" / "manifest.bin").exists()
    assert "there is no snapshot" in fails(None, "snapshot", "delete", snapshots / "none")


def test_gc_removes_what_a_killed_daemon_left(snapshots):
    left = snapshots / f".two.vmmd-{2**22 - 1}-0123456789abcdef.partial"
    shutil.copytree(snapshots / "two", left)
    assert ok(None, "snapshot", "gc", snapshots) == f"removed {left}\n"
    assert ok(None, "snapshot", "gc", snapshots) == ""
    assert sorted(entry.name for entry in snapshots.iterdir()) == ["one", "two"]


def test_gc_removes_what_a_killed_change_left_inside(snapshots):
    left = snapshots / "one" / f".manifest.bin.vmmd-{2**22 - 1}-0123456789abcdef.partial"
    left.write_bytes(b"half")
    assert ok(None, "snapshot", "gc", snapshots) == f"removed {left}\n"
    assert as_json(None, "snapshot", "gc", snapshots)["result"] == []
    ok(None, "snapshot", "check", snapshots / "one")


def edit(snapshot, change):
    file = pathlib.Path(snapshot) / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config, indent=1))


def test_seal_accepts_what_the_host_alone_sees(snapshots, daemon, tmp_path):
    one = snapshots / "one"
    target = str(tmp_path / "elsewhere")
    edit(one, lambda config: config.update(serial={"mode": "File", "file": target}))
    text = ok(None, "snapshot", "seal", one)
    assert '/serial/mode: "Socket" -> "File"' in text
    assert f'/serial/file: nothing -> "{target}"' in text
    assert "nothing changed" in ok(None, "snapshot", "seal", one)
    ok(daemon, "restore", one)
    assert daemon.get("vm.info")["config"]["serial"]["file"] == target


def test_seal_refuses_what_the_guest_would_see(snapshots):
    one = snapshots / "one"
    edit(one, lambda config: config["memory"].update(size=128 << 20))
    assert "/memory/size: the guest would see this change" in fails(None, "snapshot", "seal", one)
    assert as_json(None, "snapshot", "list", snapshots)["result"][0]["state"] == "torn"


def test_seal_of_a_change_of_form_only(snapshots):
    one = snapshots / "one"
    edit(one, lambda config: None)
    result = as_json(None, "snapshot", "seal", one)["result"]
    assert result == {"changed": True, "changes": []}
    ok(None, "snapshot", "check", one)


def test_names_from_the_disk_cannot_write_to_the_terminal(snapshots):
    os.rename(snapshots / "one", snapshots / "\x1b[31mone\n")
    text = ok(None, "snapshot", "list", snapshots)
    assert "\x1b" not in text and len(text.splitlines()) == 3
