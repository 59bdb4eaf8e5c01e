"""virtio-pmem of a Linux guest: booted once with two files, restored for each test with copies of its own."""
import pytest

import vmmd
from linux import pattern

MIB = 1 << 20
KEPT = pattern(1, 64 << 10) + bytes(4 * MIB - (64 << 10))
SHARED = pattern(2, 64 << 10) + bytes(2 * MIB - (64 << 10))


def pmem(folder):
    """Two devices: what is written to the first is kept, to the second is not."""
    return [{"id": "kept", "file": str(folder / "kept")},
            {"id": "shared", "file": str(folder / "shared"), "discard_writes": True}]


def make_files(folder):
    (folder / "kept").write_bytes(KEPT)
    (folder / "shared").write_bytes(SHARED)


@pytest.fixture(scope="module")
def with_pmem(linux, tmp_path_factory):
    """A snapshot whose guest has not touched its memory yet, and the folder of its files."""
    folder = tmp_path_factory.mktemp("pmem")
    make_files(folder)
    with vmmd.leaving_snapshot(folder) as daemon:
        linux.boot(daemon, pmem=pmem(folder))
    return folder / "snapshot"


@pytest.fixture
def guest(start, with_pmem, tmp_path):
    make_files(tmp_path)
    daemon = start()
    return daemon, daemon.restore(with_pmem, overrides={"pmem": pmem(tmp_path)})


def at(folder, name, offset, size):
    return (folder / name).read_bytes()[offset:offset + size]


def test_guest_reads_the_file_and_its_flushed_writes_are_there(guest, tmp_path):
    daemon, serial = guest
    assert serial.ask("cat /sys/block/pmem0/size", r"^(\d+)$")[1] == str(4 * MIB // 512)
    serial.ask("file check /dev/pmem0 1 0 64", r"^ok \w+$")
    assert daemon.get("vm.counters")["pmem:kept"]["flushes"] == 0
    serial.ask("file write /dev/pmem0 7 4032 64", r"^ok \w+$")
    assert at(tmp_path, "kept", 4032 << 10, 64 << 10) == pattern(7, 64 << 10)
    assert at(tmp_path, "kept", 0, 64 << 10) == KEPT[:64 << 10]
    counters = daemon.get("vm.counters")["pmem:kept"]
    assert counters["flushes"] >= 1 and counters["errors"] == 0


def test_what_was_written_is_there_after_a_restore_and_no_snapshot_holds_it(start, guest, tmp_path):
    daemon, serial = guest
    serial.ask("file write /dev/pmem0 8 128 64", r"^ok \w+$")
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snap")
    assert (tmp_path / "snap" / "memory.bin").stat().st_size == 128 * MIB
    daemon.kill()

    second = start()
    serial = second.restore(tmp_path / "snap")
    serial.ask("file check /dev/pmem0 8 128 64", r"^ok \w+$")
    serial.ask("file check /dev/pmem0 1 0 64", r"^ok \w+$")  # read here for the first time
    serial.ask("file write /dev/pmem0 9 256 64", r"^ok \w+$")
    assert at(tmp_path, "kept", 256 << 10, 64 << 10) == pattern(9, 64 << 10)


def test_discarded_writes_reach_snapshots_and_never_the_file(start, guest, tmp_path):
    daemon, serial = guest
    serial.ask("file check /dev/pmem1 2 0 64", r"^ok \w+$")
    serial.ask("file write /dev/pmem1 5 128 64", r"^ok \w+$")
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snap")
    assert (tmp_path / "shared").read_bytes() == SHARED
    pages = tmp_path / "snap" / "pmem-shared.bin"
    assert 64 << 10 <= pages.stat().st_size < 256 << 10
    daemon.kill()

    for n in range(2):
        (tmp_path / f"copy{n}").write_bytes((tmp_path / "kept").read_bytes())
        clone = start(name=f"clone{n}")
        line = clone.restore(tmp_path / "snap", overrides={"pmem": [{"id": "kept", "file": str(tmp_path / f"copy{n}")}]})
        line.ask("file write /dev/pmem1 6 256 64", r"^ok \w+$")
        line.ask("file check /dev/pmem1 5 128 64", r"^ok \w+$")
    # Linux may have both in its cache; the memory itself is what the next one sees after a reboot.
    clone.put("vm.reboot")
    line.expect(r"^AGENT READY$", timeout=240)
    line.ask("file check /dev/pmem1 5 128 64", r"^ok \w+$")
    line.ask("file check /dev/pmem1 6 256 64", r"^ok \w+$")
    line.ask("file check /dev/pmem1 2 0 64", r"^ok \w+$")
    assert (tmp_path / "shared").read_bytes() == SHARED


def test_clones_share_what_is_discarded_and_not_what_is_kept(start, guest, with_pmem, tmp_path):
    clone = start(name="clone")
    with pytest.raises(vmmd.ApiError) as refused:
        clone.restore(with_pmem, overrides={"pmem": pmem(tmp_path)})
    assert refused.value.status == 409 and str(tmp_path / "kept") in refused.value.text
    (tmp_path / "copy").write_bytes(KEPT)
    serial = clone.restore(with_pmem, overrides={"pmem": [{"id": "kept", "file": str(tmp_path / "copy")},
                                                          {"id": "shared", "file": str(tmp_path / "shared")}]})
    serial.ask("file write /dev/pmem0 3 0 64", r"^ok \w+$")
    serial.ask("file check /dev/pmem1 2 0 64", r"^ok \w+$")
    guest[1].ask("file check /dev/pmem0 1 0 64", r"^ok \w+$")
    assert at(tmp_path, "copy", 0, 64 << 10) == pattern(3, 64 << 10)


def test_a_file_that_is_too_short_is_refused_at_a_restore(start, with_pmem, tmp_path):
    make_files(tmp_path)
    (tmp_path / "kept").write_bytes(bytes(2 * MIB))
    daemon = start()
    with pytest.raises(vmmd.ApiError) as refused:
        daemon.restore(with_pmem, overrides={"pmem": pmem(tmp_path)})
    assert refused.value.status == 400 and "2097152 bytes, fewer than 4194304" in refused.value.text


@pytest.mark.parametrize("size,given,message", [
    (3 * MIB, None, "/pmem/0/file: 3145728 bytes are not a positive multiple of 2 MiB"),
    (4 * MIB, 6 * MIB, "fewer than 6291456"),
    (4 * MIB, MIB, "/pmem/0/size: 1048576 bytes are not a positive multiple of 2 MiB"),
    (None, None, "No such file"),
])
def test_files_that_cannot_be_mapped_are_refused_at_create(daemon, tmp_path, size, given, message):
    if size:
        (tmp_path / "p").write_bytes(bytes(size))
    device = {"file": str(tmp_path / "p"), **({"size": given} if given else {})}
    with pytest.raises(vmmd.ApiError) as refused:
        daemon.create(vmmd.bare("idle"), pmem=[device])
    assert refused.value.status == 400 and message in refused.value.text


def test_the_command_line_takes_pmem_and_vsock(start, tmp_path):
    (tmp_path / "p").write_bytes(bytes(2 * MIB))
    daemon = start("--kernel", vmmd.bare("idle"), "--memory", "size=64M", "--pmem", f"file={tmp_path / 'p'}",
                   "--vsock", f"cid=9,socket={tmp_path / 'v'}")
    daemon.events.wait("vm", "booted")
    config = daemon.get("vm.info")["config"]
    assert config["pmem"][0]["size"] == 2 * MIB and config["vsock"]["cid"] == 9
    assert (tmp_path / "v").is_socket()
