"""virtio-balloon in the Linux guest: what the guest gives, the host's memory has again, whatever backs the guest's RAM."""
import pathlib
import re

import pytest

import vmmd

MIB = 1 << 20
MEMORY = 128 * MIB
BALLOON = 16 * MIB
USED = 24  # MiB that the guest has used and freed


def resident(daemon):
    """Bytes of host memory that vmmd has, shared, file and huge pages included."""
    text = pathlib.Path(f"/proc/{daemon.process.pid}/smaps_rollup").read_text()
    # Rss counts no pages of hugetlbfs.
    return sum(int(n) * 1024 for n in re.findall(r"^(?:Rss|Shared_Hugetlb|Private_Hugetlb):\s+(\d+) kB$", text, re.MULTILINE))


HUGE_POOL = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")


@pytest.fixture
def huge_pages():
    """Enough for two guests."""
    try:
        before = int(HUGE_POOL.read_text())
        HUGE_POOL.write_text(str(before + 2 * MEMORY // (2 * MIB)))
    except OSError as error:
        pytest.skip(f"HUGE PAGES ARE NOT TESTED HERE: {error}")
    try:
        if (now := int(HUGE_POOL.read_text())) < before + 2 * MEMORY // (2 * MIB):
            pytest.skip(f"HUGE PAGES ARE NOT TESTED HERE: the host has no memory for more than {now} of them")
        yield
    finally:
        HUGE_POOL.write_text(str(before))


def counters(daemon):
    return daemon.get("vm.counters")["balloon"]


def wait_for(serial, done):
    """The guest's ticks are the clock: looks once for each, and gives up as `expect` does."""
    for _ in range(300):
        if done():
            return
        serial.expect(r"^tick \d+$")
    raise AssertionError(f"it never came true; the guest said {serial.text[-200:]!r}")


def has_left(serial, daemon, size):
    """Waits until the guest has so much memory: as long as that changes, because a balloon of many pages takes a guest
    whose ring 0 is emulated, on a busy host, longer than anything else here."""
    before = None
    while (now := daemon.get("vm.info")["memory_actual_size"]) != size:
        assert now != before, f"{now} of {size}"
        before = now
        for _ in range(50):
            serial.expect(r"^tick \d+$")
            if daemon.get("vm.info")["memory_actual_size"] == size:
                break


def touch_and_free(serial, mib):
    """Makes the guest use this much, so that the host has to bring it, and give it up again."""
    serial.ask(f"mem write 7 {mib}", r"^ok ", timeout=120)
    serial.ask("mem write 7 0", r"^mem: no memory$")


@pytest.fixture(scope="module")
def with_balloon(linux, tmp_path_factory):
    """A snapshot of a guest with an empty balloon that has used and freed memory."""
    folder = tmp_path_factory.mktemp("balloon")
    with vmmd.leaving_snapshot(folder) as daemon:
        serial = linux.boot(daemon, balloon={"size": 0, "deflate_on_oom": True})
        touch_and_free(serial, USED)
    return folder / "snapshot"


@pytest.mark.parametrize("backing", ["anonymous", "shared", "file", "cow"])
def test_pages_in_the_balloon_leave_the_host_and_come_back(start, with_balloon, tmp_path, backing):
    daemon = start()
    overrides = {"shared": {"memory": {"shared": True}}, "file": {"memory": {"file": str(tmp_path / "ram")}}}
    serial = daemon.restore(with_balloon, memory_restore_mode="cow" if backing == "cow" else "copy",
                            overrides=overrides.get(backing, {}))
    touch_and_free(serial, USED)  # copies of the snapshot's pages, where they are shared
    before = resident(daemon)
    daemon.put("vm.resize", {"desired_balloon": BALLOON})
    assert daemon.events.wait("vm", "resized")["properties"] == {"balloon": str(BALLOON)}
    has_left(serial, daemon, MEMORY - BALLOON)
    assert counters(daemon)["discarded_bytes"] == BALLOON
    assert resident(daemon) <= before - BALLOON * 3 // 4  # some more is used meanwhile
    assert daemon.get("vm.info")["config"]["balloon"]["size"] == BALLOON

    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snap")
    daemon.put("vm.resume")
    daemon.put("vm.resize", {"desired_balloon": 0})
    has_left(serial, daemon, MEMORY)
    serial.ask(f"mem write 9 {USED}", r"^ok ", timeout=120)
    serial.ask("mem check 9", r"^ok ", timeout=120)

    clone = start(name="clone")
    line = clone.restore(tmp_path / "snap")
    assert clone.get("vm.info")["memory_actual_size"] == MEMORY - BALLOON
    clone.put("vm.resize", {"desired_balloon": BALLOON // 2})
    has_left(line, clone, MEMORY - BALLOON // 2)
    line.ask(f"mem write 9 {USED}", r"^ok ", timeout=120)
    line.ask("mem check 9", r"^ok ", timeout=120)


def test_what_is_in_the_balloon_is_not_in_the_snapshot(start, with_balloon, tmp_path):
    daemon = start()
    serial = daemon.restore(with_balloon, memory_restore_mode="copy")
    daemon.put("vm.pause")
    before = daemon.snapshot(tmp_path / "before", mode="copy")["memory_bytes_written"]
    daemon.put("vm.resume")
    daemon.put("vm.resize", {"desired_balloon": BALLOON})
    has_left(serial, daemon, MEMORY - BALLOON)
    daemon.put("vm.pause")
    after = daemon.snapshot(tmp_path / "after", mode="copy")["memory_bytes_written"]
    assert after <= before - BALLOON * 3 // 4, (before, after)


def test_the_guest_tells_about_its_memory(start, with_balloon):
    daemon = start()
    serial = daemon.restore(with_balloon)
    updates = counters(daemon)["stats_updates"]  # and asks for new ones
    wait_for(serial, lambda: counters(daemon)["stats_updates"] > updates + 1)
    stats = counters(daemon)
    assert 64 * MIB < stats["stat_total_memory"] < MEMORY
    assert 8 * MIB < stats["stat_free_memory"] < stats["stat_total_memory"]
    assert 8 * MIB < stats["stat_available_memory"] < MEMORY


def test_a_balloon_larger_than_ram_or_absent_is_refused(start, with_balloon, booted):
    daemon = start()
    daemon.restore(with_balloon)
    status, body = daemon.raw("PUT", "vm.resize", {"desired_balloon": MEMORY + 4096})
    assert status == 400 and "larger than the VM's RAM" in " ".join(body), (status, body)
    status, body = daemon.raw("PUT", "vm.resize", {"desired_ram": MEMORY})
    assert status == 501 and "/desired_ram" in " ".join(body), (status, body)
    other = start()
    other.restore(booted())
    status, body = other.raw("PUT", "vm.resize", {"desired_balloon": 4096})
    assert status == 400 and "no balloon" in " ".join(body), (status, body)


def test_pages_that_the_guest_frees_are_reported(start, linux):
    daemon = start()
    # Linux reports only while it has 64 MiB to spare.
    serial = linux.boot(daemon, memory=2 * MEMORY, balloon={"size": 0, "free_page_reporting": True})
    serial.ask("mem write 7 48", r"^ok ", timeout=120)
    used = resident(daemon)
    serial.ask("mem write 7 0", r"^mem: no memory$")
    wait_for(serial, lambda: resident(daemon) <= used - 32 * MIB)
    assert counters(daemon)["reported_bytes"] >= 32 * MIB
    serial.ask("mem write 9 48", r"^ok ", timeout=120)
    serial.ask("mem check 9", r"^ok ", timeout=120)


def test_resize_on_the_command_line(start, with_balloon):
    import remote

    daemon = start()
    serial = daemon.restore(with_balloon)
    remote.ok(daemon, "resize", "--balloon", "8M")
    has_left(serial, daemon, MEMORY - 8 * MIB)


def test_huge_pages_that_were_given_whole_leave_the_host_and_come_back(huge_pages, start, with_balloon, tmp_path):
    """Of a guest that was booted without: what its driver agreed to then must do."""
    size = 64 * MIB  # in smaller ones are few whole huge pages
    huge = {"memory": {"hugepages": True, "prefault": True}}
    daemon = start()
    serial = daemon.restore(with_balloon, memory_restore_mode="copy", overrides=huge)
    before = resident(daemon)
    assert before >= MEMORY
    daemon.put("vm.resize", {"desired_balloon": size})
    has_left(serial, daemon, MEMORY - size)
    given = counters(daemon)["discarded_bytes"]
    assert given >= size // 2
    assert resident(daemon) <= before - given * 3 // 4  # some more is used meanwhile
    daemon.put("vm.resize", {"desired_balloon": 0})
    has_left(serial, daemon, MEMORY)
    serial.ask("mem write 9 8", r"^ok ", timeout=120)
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snap")
    clone = start(name="clone")
    line = clone.restore(tmp_path / "snap", memory_restore_mode="copy")
    line.ask("mem check 9", r"^ok ", timeout=120)
