"""virtio-block in the Linux guest: what it writes is on the host, what it flushed survives, and nothing is lost, torn
or seen twice over snapshots and restores."""
import os
import subprocess

import pytest

import vmmd

RECORD = 4096
SIZE = 32 << 20


def image(path, size=SIZE):
    path.write_bytes(b"")
    os.truncate(path, size)
    return path


def disk(path, name="data", **more):
    return {"path": str(path), "id": name, **more}


def boot(linux, daemon, *disks, more="tick=200", **config):
    return linux.boot(daemon, disks=list(disks), more=more, **config)


@pytest.fixture(scope="module")
def with_disk(linux, tmp_path_factory):
    """A snapshot of a guest with a disk, and the disk's image as it was then."""
    folder = tmp_path_factory.mktemp("disk")
    with vmmd.leaving_snapshot(folder) as daemon:
        serial = boot(linux, daemon, disk(image(folder / "data.img"), serial="S/N 42", num_queues=2),
                      disk(image(folder / "ro.img"), "ro", readonly=True))
        serial.ask("disk write /dev/vda 7 0 64", r"^disk wrote 64$")
    return folder


@pytest.fixture(params=[False, True], ids=["cached", "direct"])
def direct(request, tmp_path):
    """Whether the disk is used past the host's page cache."""
    if request.param:
        try:
            os.close(os.open(image(tmp_path / "probe", 4096), os.O_RDWR | os.O_DIRECT))
        except OSError:
            pytest.skip("no direct I/O on this filesystem")
    return request.param


@pytest.fixture
def guest(start, with_disk, tmp_path):
    """A restored guest whose disk is a copy of its own: (daemon, serial, the image's path)."""
    copy = tmp_path / "data.img"
    subprocess.run(["cp", "--sparse=always", with_disk / "data.img", copy], check=True)
    daemon = start()
    serial = daemon.restore(with_disk / "snapshot", overrides={"disks": [{"id": "data", "path": str(copy)}]})
    return daemon, serial, copy


def test_the_guest_sees_the_disk_as_it_is_configured(guest):
    daemon, serial, _ = guest
    for name, value in [("serial", "S/N 42"), ("size", str(SIZE // 512)), ("ro", "0"),
                        ("queue/physical_block_size", "4096")]:
        serial.ask(f"cat /sys/block/vda/{name}", f"^{value}\\s*end$")
    serial.ask("cat /sys/block/vdb/ro", r"^1\s*end$")
    serial.ask("disk write /dev/vdb 1 0 1", r"^disk: (open|record 0) error \d+$")
    assert daemon.get("vm.counters")["disk:data"]["reads"] >= 0


def test_what_the_guest_flushed_is_in_the_image(start, with_disk, tmp_path, direct):
    path = tmp_path / "data.img"
    subprocess.run(["cp", "--sparse=always", with_disk / "data.img", path], check=True)
    daemon = start()
    serial = daemon.restore(with_disk / "snapshot",
                            overrides={"disks": [{"id": "data", "path": str(path), "direct": direct}]})
    serial.ask("disk check /dev/vda 7 0 64", r"^disk checked 64$")
    serial.ask("disk write /dev/vda 9 100 50", r"^disk wrote 50$")
    counters = daemon.get("vm.counters")["disk:data"]
    assert counters["write_bytes"] >= 50 * RECORD and counters["flushes"] >= 1
    daemon.kill()
    content = path.read_bytes()
    for number in (100, 149):
        record = content[number * RECORD:(number + 1) * RECORD]
        assert int.from_bytes(record[:8], "little") == number and int.from_bytes(record[8:16], "little") == 9


def test_a_discard_gives_the_space_back(guest):
    _, serial, path = guest
    serial.ask("disk write /dev/vda 3 1024 64", r"^disk wrote 64$")  # one by one: more takes a busy host a minute
    before = path.stat().st_blocks
    serial.ask("disk discard /dev/vda 1024 64", r"^disk discarded 0$")
    assert path.stat().st_blocks <= before - 64 * RECORD // 512


def test_two_vms_do_not_write_one_image(guest, start, with_disk):
    _, _, path = guest
    other = start(name="other")
    with pytest.raises(vmmd.ApiError) as refused:
        other.restore(with_disk / "snapshot", overrides={"disks": [{"id": "data", "path": str(path)}]})
    assert str(path) in refused.value.text and "is in use" in refused.value.text


@pytest.mark.parametrize("generations", [4])
def test_writers_lose_nothing_over_snapshots(guest, start, tmp_path, generations):
    daemon, serial, path = guest
    slots = 200
    serial.ask(f"disk start /dev/vda 5 4 {slots}", r"^disk writing$")
    for generation in range(generations):
        serial.expect(r"^tick \d+$")
        daemon.put("vm.pause")
        folder = tmp_path / f"snap{generation}"
        daemon.snapshot(folder)
        daemon.kill()
        # The image as it is when the VM stops is what the snapshot goes with.
        daemon = start(name=f"gen{generation}")
        serial = daemon.restore(folder)
    serial.expect(r"^tick \d+$")
    serial.ask("disk stop", r"^disk stopped (\d+)$")
    assert int(serial.ask(f"disk verify /dev/vda 5 0 {slots}", r"^disk checked (\d+)$")[1]) > 0


def test_a_reboot_finds_the_disk_again(guest):
    daemon, serial, _ = guest
    serial.ask("disk write /dev/vda 6 0 16", r"^disk wrote 16$")
    daemon.put("vm.reboot")
    serial.expect(r"^AGENT READY$", timeout=240)
    serial.ask("disk check /dev/vda 6 0 16", r"^disk checked 16$")


def root_image(linux, folder):
    """A filesystem with what the initramfs holds, and a greeting."""
    tree = folder / "tree"
    for name in ("dev", "proc", "sys", "mnt"):
        (tree / name).mkdir(parents=True)
    subprocess.run(f"cd {tree} && cpio --quiet -id init < {linux.initramfs}", shell=True, check=True)
    (tree / "hello").write_text("from the host\n")
    root = image(folder / "root.img")
    subprocess.run(["mkfs.ext4", "-q", "-d", tree, root], check=True, stdout=subprocess.DEVNULL)
    return root


def boot_from(linux, daemon, root, **more):
    payload = {"kernel": str(linux.kernel),
               "cmdline": linux.cmdline(128 << 20, "root=/dev/vda rw init=/init tick=0")}
    serial = daemon.boot(linux.kernel, memory=128 << 20, payload=payload, disks=[disk(root, "root", **more)])
    serial.expect(r"^AGENT READY$", timeout=240)
    return serial


def test_linux_boots_from_a_disk(linux, start, tmp_path):
    root = root_image(linux, tmp_path)
    daemon = start()
    serial = boot_from(linux, daemon, root)
    serial.ask("cat /hello", r"^from the host\s*end$")
    serial.ask("put /hello from the guest", r"^put 14$")
    serial.send("poweroff")
    daemon.wait_exit()
    told = subprocess.run(["debugfs", "-R", "cat /hello", root], check=True, capture_output=True, text=True).stdout
    assert told.startswith("from the guest")


def test_clones_of_a_guest_with_its_root_on_a_disk_go_their_own_ways(linux, start, tmp_path):
    root = root_image(linux, tmp_path)
    before = root.read_bytes()
    with vmmd.leaving_snapshot(tmp_path) as daemon:
        serial = boot_from(linux, daemon, root, overlay="memory")
        serial.ask("file write /hello 7 0 256", r"^ok ")
    clones = []
    for seed in (21, 22):
        daemon = start(name=f"clone{seed}")
        serial = daemon.restore(tmp_path / "snapshot")
        serial.ask("put /proc/sys/vm/drop_caches 3", r"^put 1$")  # what is read now comes from the disk
        serial.ask("file check /hello 7 0 256", r"^ok ")
        serial.ask(f"file write /hello {seed} 128 256", r"^ok ")
        clones.append((serial, seed))
    for serial, seed in clones:
        serial.ask("put /proc/sys/vm/drop_caches 3", r"^put 1$")
        serial.ask(f"file check /hello {seed} 128 256", r"^ok ")
        serial.ask("file check /hello 7 0 128", r"^ok ")
    assert root.read_bytes() == before


@pytest.fixture(scope="module")
def with_overlay(linux, tmp_path_factory):
    """A snapshot of a guest that wrote into overlays, and the images below, which it did not change."""
    folder = tmp_path_factory.mktemp("overlay")
    base = image(folder / "base.img")
    before = base.read_bytes()
    with vmmd.leaving_snapshot(folder) as daemon:
        serial = boot(linux, daemon, disk(base, "mem", overlay="memory"), {"path": f"memdiff:{base}", "id": "diff"})
        serial.ask("disk write /dev/vda 7 0 64", r"^disk wrote 64$")
        serial.ask("disk write /dev/vdb 8 0 32", r"^disk wrote 32$")
    assert base.read_bytes() == before
    return folder


def test_an_overlay_in_memory_is_part_of_the_snapshot(with_overlay, start, tmp_path):
    snapshot = with_overlay / "snapshot"
    assert (snapshot / "disk-mem.bin").stat().st_size == 4096 + 64 * RECORD
    assert (snapshot / "disk-diff.bin").stat().st_size == 4096 + 32 * RECORD
    before = [(snapshot / name).read_bytes() for name in ("disk-mem.bin", "disk-diff.bin")]
    clones = []
    for seed in (21, 22):
        daemon = start(name=f"clone{seed}")
        serial = daemon.restore(snapshot, verify="full")
        serial.ask("disk check /dev/vda 7 0 64", r"^disk checked 64$")
        serial.ask("disk check /dev/vdb 8 0 32", r"^disk checked 32$")
        serial.ask(f"disk write /dev/vda {seed} 32 64", r"^disk wrote 64$")
        clones.append((daemon, serial, seed))
    # Each has its own, and below it what both had.
    for daemon, serial, seed in clones:
        serial.ask(f"disk check /dev/vda {seed} 32 64", r"^disk checked 64$")
        serial.ask("disk check /dev/vda 7 0 32", r"^disk checked 32$")
    assert before == [(snapshot / name).read_bytes() for name in ("disk-mem.bin", "disk-diff.bin")]
    # The next generation has both layers in one.
    daemon, _, seed = clones[0]
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "second")
    daemon.kill()
    daemon = start(name="grandchild")
    serial = daemon.restore(tmp_path / "second")
    serial.ask(f"disk check /dev/vda {seed} 32 64", r"^disk checked 64$")
    serial.ask("disk check /dev/vda 7 0 32", r"^disk checked 32$")
    assert not any((with_overlay / "base.img").read_bytes())


@pytest.fixture
def damaged(with_overlay, tmp_path):
    """Its snapshot with a layer that is not what was written."""
    copy = tmp_path / "damaged"
    subprocess.run(["cp", "-r", with_overlay / "snapshot", copy], check=True)
    with (copy / "disk-mem.bin").open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"damage")
    return copy


@pytest.mark.parametrize("verify,mode", [("full", "cow"), ("full", "copy"), ("full", "shared"), ("lazy", "copy")])
def test_a_damaged_layer_is_named(damaged, start, verify, mode):
    daemon = start()
    with pytest.raises(vmmd.ApiError) as refused:
        daemon.restore(damaged, verify=verify, memory_restore_mode=mode)
    assert "disk-mem.bin" in refused.value.text


def test_a_damaged_layer_is_found_behind_the_vm(damaged, start):
    daemon = start()
    daemon.restore(damaged, verify="lazy")
    found = daemon.events.wait("vm", "restore-damaged")["properties"]
    assert found == {"damaged_bytes": "0", "ranges": "", "layers": "disk-mem.bin"}
    info = daemon.get("vm.info")
    assert info["memory_check"]["state"] == "damaged" and info["state"] == "Paused"


def test_a_missing_layer_is_named(damaged, start):
    daemon = start()
    (damaged / "disk-mem.bin").unlink()
    with pytest.raises(vmmd.ApiError) as refused:
        daemon.restore(damaged)
    assert "disk-mem.bin" in refused.value.text


def test_an_overlay_cannot_be_left_behind(with_overlay, start):
    daemon = start()
    with pytest.raises(vmmd.ApiError) as refused:
        daemon.restore(with_overlay / "snapshot", overrides={"disks": [{"id": "mem", "overlay": None}]})
    assert "disk" in refused.value.text


def test_an_overlay_in_a_file_keeps_what_was_flushed(linux, start, tmp_path):
    base, layer = image(tmp_path / "base.img"), tmp_path / "layer"
    daemon = start()
    serial = boot(linux, daemon, disk(base, overlay=str(layer)))
    serial.ask("disk write /dev/vda 7 0 64", r"^disk wrote 64$")
    daemon.kill()
    again = start(name="again")
    serial = boot(linux, again, disk(base, overlay=str(layer)))
    serial.ask("disk check /dev/vda 7 0 64", r"^disk checked 64$")
    assert not any(base.read_bytes())
    assert layer.stat().st_blocks * 512 < 2 << 20


def test_a_full_overlay_fails_in_the_guest_with_an_event(linux, start, tmp_path):
    daemon = start()
    serial = boot(linux, daemon, disk(image(tmp_path / "base.img"), overlay="memory", overlay_limit=1 << 20))
    serial.ask("disk write /dev/vda 7 0 1000", r"^disk: record \d+ error (5|28)$")
    told = daemon.events.wait("device", "backend-failed")
    assert told["properties"]["unit"] == "disk:data" and "No space left" in told["properties"]["error"]
    assert daemon.get("vm.counters")["disk:data"]["errors"] >= 1
    serial.ask("disk write /dev/vda 9 0 16", r"^disk wrote 16$")
    serial.ask("disk check /dev/vda 9 0 16", r"^disk checked 16$")


def test_a_full_host_fails_in_the_guest_and_the_vm_goes_on(linux, start, tmp_path):
    mount = tmp_path / "tiny"
    mount.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tiny", mount], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("cannot mount a tmpfs here")
    try:
        daemon = start()
        serial = boot(linux, daemon, disk(image(mount / "data.img")))
        serial.ask("disk write /dev/vda 7 0 1000", r"^disk: record \d+ error (5|28)$")
        daemon.events.wait("device", "backend-failed")
        daemon.put("vm.pause")
        daemon.snapshot(tmp_path / "snapshot")
        daemon.put("vm.resume")
        serial.ask("disk check /dev/vda 7 0 16", r"^disk checked 16$")
        serial.ask("disk discard /dev/vda 0 1000", r"^disk discarded 0$")
        serial.ask("disk write /dev/vda 9 0 16", r"^disk wrote 16$")
        daemon.stop()
    finally:
        subprocess.run(["umount", "-l", mount], check=True)
