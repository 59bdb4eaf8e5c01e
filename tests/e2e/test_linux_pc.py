"""Linux on nothing but the PC's oldest devices: two 8259 and an 8254, no APIC."""
import re

import pytest

import vmmd

MEMORY = 128 << 20


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
