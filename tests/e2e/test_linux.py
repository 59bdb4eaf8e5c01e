"""Linux guests: booted once per kind, then restored for each test, as users do it."""
import dataclasses
import re
import time

import pytest

import linux as linux_guest

KINDS = [(1, 128 << 20), (4, 128 << 20), (1, 5 << 30)]
KIND_NAMES = ["1cpu-128MiB", "4cpus-128MiB", "1cpu-5GiB"]


def only_ours(linux):
    if linux.stock:
        pytest.skip("Debian's stock kernel has not what this needs")


@pytest.fixture
def guest(start, booted):
    """A restored Linux guest with one CPU and 128 MiB: (daemon, serial)."""
    daemon = start()
    return daemon, daemon.restore(booted())


@pytest.mark.parametrize("cpus,memory", KINDS, ids=KIND_NAMES)
def test_boots_and_sees_its_machine(start, linux, booted, cpus, memory):
    daemon = start()
    serial = daemon.restore(booted(cpus, memory))
    serial.ask("cpus", f"^cpus {cpus}$")
    if linux.stock:
        return  # no /dev/mem over RAM
    at, length = linux_guest.RESERVED
    serial.ask(f"phys write 7 {at} {length}", r"^ok (\w+)$")
    if memory > 3 << 30:
        serial.ask("phys write 8 3056 16", r"^ok")
        serial.ask("phys write 9 4352 32", r"^ok")
        serial.ask("phys check 8 3056 16", r"^ok")
        serial.ask("phys check 9 4352 32", r"^ok")
    serial.ask(f"phys check 7 {at} {length}", r"^ok")


def test_pings_and_info_are_answered_while_linux_boots(start, linux):
    only_ours(linux)
    daemon = start()
    payload = {"kernel": str(linux.kernel), "initramfs": str(linux.initramfs),
               "cmdline": linux.cmdline(128 << 20).replace("quiet", "earlyprintk=ttyS0")}
    serial = daemon.boot(linux.kernel, memory=128 << 20, payload=payload)
    serial.expect(r"Linux version .*$")
    times = []
    for _ in range(250):
        for question in ("vmm.ping", "vm.info"):
            begin = time.monotonic()
            daemon.get(question)
            times.append(time.monotonic() - begin)
    assert "INIT UP" not in serial.text, "the boot was over before the last answer"
    times.sort()
    print(f"while Linux boots: median {times[len(times) // 2] * 1000:.2f} ms, p99 {times[-len(times) // 100] * 1000:.2f} ms")
    serial.expect(r"^INIT UP ", timeout=240)


def test_a_compressed_bzimage_unpacks_itself_boots_and_goes_on_from_its_snapshot(start, linux, tmp_path):
    only_ours(linux)  # the stock kernel is a bzImage wherever it boots
    first = start()
    bzimage = dataclasses.replace(linux, kernel=linux.kernel.with_name("bzImage"))
    bzimage.boot(first)  # unpacking alone takes 20 s where ring 0 is emulated
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap")
    first.kill()
    second = start()
    serial = second.restore(tmp_path / "snap")
    later = int(serial.expect(r"^tick (\d+)$")[1])
    serial.expect(f"^tick {later + 1}$")


@pytest.mark.parametrize("cpus,memory", KINDS[:2], ids=KIND_NAMES[:2])
def test_snapshot_kill_restore_goes_on_with_memory_intact(start, linux, booted, tmp_path, cpus, memory):
    physical = not linux.stock
    at, length = linux_guest.RESERVED
    first = start()
    serial = first.restore(booted(cpus, memory))
    digest = serial.ask("mem write 3 4", r"^ok (\w+)$")[1]
    if physical:
        physical = serial.ask(f"phys write 4 {at} {length}", r"^ok (\w+)$")[1]
    count = int(serial.ask("count", r"^count (\d+)$")[1])
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap")
    first.kill()

    second = start()
    serial = second.restore(tmp_path / "snap")
    assert int(serial.ask("count", r"^count (\d+)$")[1]) >= count
    later = int(serial.expect(r"^tick (\d+)$")[1])
    serial.expect(f"^tick {later + 1}$")
    assert serial.ask("mem check 3", r"^ok (\w+)$")[1] == digest
    if physical:
        assert serial.ask(f"phys check 4 {at} {length}", r"^ok (\w+)$")[1] == physical
    serial.ask("cpus", f"^cpus {cpus}$")


def test_three_clones_at_once_go_their_own_ways(start, booted):
    snapshot = booted()
    clones = [start(name=f"clone{n}") for n in range(3)]
    lines = [clone.restore(snapshot) for clone in clones]
    for n, line in enumerate(lines):
        line.ask(f"mem write {n} 2", r"^ok")
    counts = [int(line.ask("count", r"^count (\d+)$")[1]) for line in lines]
    for n, (line, count) in enumerate(zip(lines, counts)):
        line.ask(f"mem check {n}", r"^ok")
        later = int(line.expect(r"^tick (\d+)$")[1])
        assert later >= count
        line.expect(f"^tick {later + 1}$")


def test_serial_line_both_ways(guest):
    _, serial = guest
    for n in range(20):
        serial.ask(f"echo line {n} " + "y" * n, f"^echo line {n} y{{{n}}}$")


def test_pause_stops_the_counter_and_resume_continues_it(guest):
    daemon, serial = guest
    serial.ask("tick 20", r"^tick \d+$")
    before = int(serial.expect(r"^tick (\d+)$")[1])
    daemon.put("vm.pause")
    daemon.put("vm.resume")
    numbers = [int(serial.expect(r"^tick (\d+)$")[1]) for _ in range(5)]
    assert numbers[0] > before
    assert numbers == list(range(numbers[0], numbers[0] + 5))


def test_power_button_shuts_linux_down(linux, guest):
    only_ours(linux)
    daemon, serial = guest
    daemon.put("vm.power-button")
    serial.expect(r"^power button$")
    assert daemon.wait_exit() == 0


def test_poweroff_inside_linux_ends_vmmd(guest):
    daemon, serial = guest
    serial.ask("poweroff", r"^power off$")
    assert daemon.wait_exit() == 0


def test_reboot_inside_linux_boots_again(guest):
    daemon, serial = guest
    serial.ask("reboot", r"^reboot$")
    daemon.events.wait("vm", "rebooted")
    serial.expect(r"^INIT UP ", timeout=240)


def test_clocks_go_on_after_restore(start, guest, tmp_path):
    daemon, serial = guest

    def clocks(line):
        match = line.ask("time", r"^time realtime ([\d.]+) monotonic ([\d.]+) boottime ([\d.]+)$")
        return [float(word) for word in match.groups()]

    before = clocks(serial)
    assert abs(before[0] - time.time()) < 5
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snap")
    daemon.kill()
    second = start()
    after = clocks(second.restore(tmp_path / "snap"))
    assert after[0] >= before[0] and abs(after[0] - time.time()) < 5
    assert 0 <= after[1] - before[1] < 30


def test_timers_keep_their_length_after_restore(guest):
    _, serial = guest
    slept = int(serial.ask("sleep-timer 200", r"^slept (\d+)$")[1])
    assert 200_000 <= slept < 1_000_000


def test_the_rtc_shows_the_time_of_day(guest):
    _, serial = guest
    found = serial.ask("rtc", r"^rtc (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)$")[1]
    guest_time = time.mktime(time.strptime(found, "%Y-%m-%d %H:%M:%S")) - time.timezone
    assert abs(guest_time - time.time()) < 10


def test_restore_names_what_does_not_match(start, booted):
    daemon = start()
    status, body = daemon.raw("PUT", "vm.restore", {
        "source_url": f"file://{booted()}", "memory_size": 64 << 20, "vcpus": 3})
    text = " ".join(body)
    assert 400 <= status < 500, (status, body)
    assert re.search(r"3\b.*\b1\b|\b1\b.*3\b", text) and "67108864" in text.replace(" ", ""), text
