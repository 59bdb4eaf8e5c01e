"""Linux on nothing but the PC's oldest devices: two 8259 and an 8254, no APIC; and beside them, by ACPI."""
import os
import pathlib
import re
import time

import pytest

import vmmd

MEMORY = 128 << 20
MOST_TICKS = 100  # of Linux, a second: its HZ is 25
IDLE_SECONDS = 2  # nothing but ticks may happen: that can only be seen by waiting


@pytest.fixture(scope="module")
def without_apic(linux, tmp_path_factory):
    """A snapshot of a guest that has neither local nor I/O APIC in use."""
    if linux.stock:
        pytest.skip("whether Debian's stock kernel goes without APICs is not known")
    folder = tmp_path_factory.mktemp("pc")
    with vmmd.leaving_snapshot(folder) as daemon:
        linux.boot(daemon, memory=MEMORY, more="tick=200 noapic nolapic", platform={"pc": True})
    return folder / "snapshot"


def interrupts(serial):
    """Of each device: how many have come."""
    text = serial.ask("cat /proc/interrupts", r"^ +CPU0(?s:(.*?))^end$")[1]
    assert "IO-APIC" not in text and "MSI" not in text, text
    return {name: int(count) for count, name in re.findall(r"^ *\d+: +(\d+) +XT-PIC +(\S+)", text, re.MULTILINE)}


def test_linux_without_an_apic_keeps_time_and_restores(start, without_apic, tmp_path):
    snapshot = without_apic
    before = 0
    for generation in range(3):
        daemon = start(name=f"generation{generation}")
        serial = daemon.restore(snapshot)
        assert int(serial.ask("sleep-timer 300", r"^slept (\d+)$")[1]) >= 300_000
        count = int(serial.ask("count", r"^count (\d+)$")[1])
        serial.expect(f"^tick {count + 2}$")
        now = interrupts(serial)
        assert {"timer", "ttyS0", "rtc0"} <= set(now) and now["timer"] > before, now
        before = now["timer"]
        daemon.put("vm.pause")
        snapshot = tmp_path / f"snap{generation}"
        daemon.snapshot(snapshot)
        daemon.kill()


def thread(daemon, name):
    """Of vmmd: its folder in /proc."""
    tasks = pathlib.Path(f"/proc/{daemon.process.pid}/task").iterdir()
    return next(task for task in tasks if (task / "comm").read_text().strip() == name)


def sleeps(daemon, name):
    """How often a thread went to sleep."""
    status = (thread(daemon, name) / "status").read_text()
    return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)[1])


def processor_seconds(daemon, name):
    task = thread(daemon, name)
    return sum(map(int, (task / "stat").read_text().rpartition(") ")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")


def test_an_idle_guest_without_an_apic_costs_what_its_ticks_do(start, without_apic):
    daemon = start()
    serial = daemon.restore(without_apic)
    serial.send("tick 0")
    ticks = interrupts(serial)["timer"]

    def spent():
        return (time.monotonic(), sleeps(daemon, "vmmd-devices"), daemon.get("vm.counters")["vcpu0"]["exits"],
                processor_seconds(daemon, "vmmd-devices"))

    before = spent()
    time.sleep(IDLE_SECONDS)
    seconds, wake_ups, exits, processor = (late - early for early, late in zip(before, spent()))
    assert interrupts(serial)["timer"] > ticks
    # A tick wakes the device thread once or twice, and the guest leaves for us some seven times to answer it.
    assert wake_ups <= 3 * MOST_TICKS * seconds
    assert exits <= 20 * MOST_TICKS * seconds
    assert processor <= 0.2 * seconds


@pytest.fixture(scope="module")
def with_acpi(linux, tmp_path_factory):
    """A snapshot of a guest that uses its APICs on a machine that has the old devices, too."""
    if linux.stock:
        pytest.skip("Debian's stock kernel has no input device for the power button")
    folder = tmp_path_factory.mktemp("acpi")
    (folder / "disk.img").write_bytes(bytes(1 << 20))
    with vmmd.leaving_snapshot(folder) as daemon:
        serial = linux.boot(daemon, memory=MEMORY, more="tick=0", platform={"pc": True},
                            disks=[{"id": "d", "path": str(folder / "disk.img"), "overlay": "memory"}])
        assert "IO-APIC" in serial.ask("cat /proc/interrupts", r"^ +CPU0(?s:(.*?))^end$")[1]
    return folder / "snapshot"


def test_the_power_button_of_a_pc_is_that_of_pm1(start, with_acpi):
    daemon = start()
    serial = daemon.restore(with_acpi)
    serial.ask("disk write /dev/vda 7 0 8", "^disk wrote 8$")
    assert "acpi" in serial.ask("cat /proc/interrupts", r"^ +CPU0(?s:(.*?))^end$")[1]
    daemon.put("vm.power-button")
    serial.expect("^power button$")
    assert daemon.wait_exit() == 0


def test_a_pc_is_reset_by_its_guest(start, with_acpi):
    daemon = start()
    serial = daemon.restore(with_acpi)
    serial.ask("reboot", "^reboot$")
    daemon.events.wait("vm", "rebooted")
    serial.expect("^AGENT READY$", timeout=240)
    serial.ask("disk write /dev/vda 7 0 8", "^disk wrote 8$")
