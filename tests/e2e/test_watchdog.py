"""The virtio watchdog, driven by a bare-metal guest: mainline Linux has no driver for it."""
import time

import pytest

import vmmd

READY = r"^watchdog 1063 ready$"
TIMEOUT = 20  # seconds, of the device

pytestmark = pytest.mark.guest


def counters(daemon):
    return daemon.get("vm.counters")["watchdog"]


def test_a_guest_that_never_pings_is_left_alone_and_one_that_stops_is_reset(start, tmp_path):
    daemon = start()
    serial = daemon.boot(vmmd.bare("watchdog"), watchdog=True)
    serial.expect(READY)
    assert counters(daemon) == {"pings": 0, "timeouts": 0}
    serial.ask("ping", r"^pong 1$")
    assert counters(daemon) == {"pings": 1, "timeouts": 0}
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snap")
    daemon.kill()

    clone = start(name="clone")
    line = clone.restore(tmp_path / "snap")
    line.ask("ping", r"^pong 1$")  # the queue goes on where it was
    begin = time.monotonic()
    assert clone.events.wait("vm", "watchdog", timeout=2 * TIMEOUT + vmmd.PATIENCE)["properties"] == {
        "unit": "watchdog", "reason": f"no ping from the guest for {TIMEOUT} s; it is reset"}
    assert time.monotonic() - begin > TIMEOUT - 5
    clone.events.wait("guest", "reset")
    clone.events.wait("vm", "rebooted")
    line.expect(READY)
    assert counters(clone) == {"pings": 0, "timeouts": 0}  # of the new machine, whose timer is off
    line.ask("hello", r"^echo hello$")


def test_what_is_left_of_the_time_is_restored(start, tmp_path):
    daemon = start()
    serial = daemon.boot(vmmd.bare("watchdog"), watchdog=True)
    serial.expect(READY)
    serial.ask("ping", r"^pong 1$")
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snap")
    daemon.kill()
    clone = start(name="clone")
    line = clone.restore(tmp_path / "snap")
    clone.events.wait("vm", "watchdog", timeout=2 * TIMEOUT + vmmd.PATIENCE)
    line.expect(READY)
