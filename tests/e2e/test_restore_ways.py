"""The ways to a snapshot and back that only some people go: OpenVMM's options, links that cannot be, clocks that wait."""
import pathlib
import shutil
import subprocess
import tempfile
import time

import pytest

import snapshots
import strace
from vmmd import SANITIZED, VMMD, Serial, bare

pytestmark = pytest.mark.guest

MEMORY = 64 << 20


@pytest.fixture
def elsewhere():
    """A folder on another filesystem than the test's own."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield pathlib.Path(folder)


def wait_state(daemon, state):
    deadline = time.monotonic() + 30
    while (found := daemon.raw("GET", "vm.info")) and (found[0] != 200 or found[1]["state"] != state):
        assert time.monotonic() < deadline, found


# OpenVMM's options

@pytest.mark.parametrize("paused", [False, True])
def test_restore_snapshot_and_paused_as_openvmm_has_them(start, tmp_path, paused):
    first = start()
    first.boot(bare("tick")).expect(r"^tick 3$")
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap")
    first.stop()
    second = start("--restore-snapshot", tmp_path / "snap", *(["--paused"] if paused else []))
    wait_state(second, "Paused" if paused else "Running")
    if paused:
        second.put("vm.resume")
    line = Serial(first.serial_path)  # as configured: there are no overrides
    second.serials.append(line)
    line.expect(r"^tick \d+$")


def test_sizes_beside_restore_snapshot_must_match_the_snapshot_s(start, tmp_path):
    first = start()
    first.boot(bare("tick"), cpus=2).expect(r"^tick 3$")
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap")
    first.stop()
    restore = [VMMD, "--restore-snapshot", tmp_path / "snap"]
    wrong = subprocess.run([*restore, "--memory", "size=128M", "--cpus", "boot=4"], capture_output=True, text=True, timeout=30)
    assert wrong.returncode == 1
    assert all(size in wrong.stderr for size in (str(128 << 20), str(MEMORY), "4", "2")), wrong.stderr
    more = subprocess.run([*restore, "--serial", "null"], capture_output=True, text=True, timeout=30)
    assert more.returncode == 2 and "comes from the snapshot" in more.stderr
    second = start(*restore[1:], "--memory", f"size={MEMORY}", "--cpus", "boot=2")
    wait_state(second, "Running")


def test_memory_backing_file_is_ram_that_can_be_linked(start, tmp_path):
    daemon = start("--kernel", bare("tick"), "--memory", "size=64M", "--memory-backing-file", tmp_path / "ram", "--serial", "null")
    wait_state(daemon, "Running")
    assert (tmp_path / "ram").stat().st_size == MEMORY
    assert daemon.snapshot(tmp_path / "snap", pause=True, resume=True)["mode"] == "link"
    daemon.jobs_end()
    assert snapshots.judge(tmp_path / "snap") == "complete"


# Links that cannot be

def boot_in_file(daemon, file):
    config = daemon.config(bare("tick"), memory=MEMORY)
    config["memory"]["file"] = str(file)
    daemon.put("vm.create", config)
    daemon.put("vm.boot")
    serial = daemon.serial()
    serial.expect(r"^tick 3$")
    return serial


def test_a_link_over_filesystems_says_what_to_do_and_auto_does_it(start, tmp_path, elsewhere):
    daemon = start()
    serial = boot_in_file(daemon, elsewhere / "ram")
    if elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm and the temporary folder are one filesystem")
    status, body = daemon.raw("PUT", "vm.snapshot", {"destination_url": f"file://{tmp_path / 'snap'}", "mode": "link", "pause": True})
    assert status == 409 and "different filesystems" in " ".join(body) and "use mode copy" in " ".join(body)
    assert not (tmp_path / "snap").exists() and snapshots.hidden(tmp_path / "snap") == []
    assert daemon.snapshot(tmp_path / "snap", mode="auto", pause=True, resume=True)["mode"] == "copy"
    assert snapshots.judge(tmp_path / "snap") == "complete"
    serial.ask("on", r"^echo on$")


def test_reflink_where_there_is_none_says_what_to_do(start, elsewhere):
    daemon = start()
    boot_in_file(daemon, elsewhere / "ram")
    status, body = daemon.raw("PUT", "vm.snapshot", {"destination_url": f"file://{elsewhere / 'snap'}", "mode": "reflink", "pause": True})
    assert status == 409 and "use mode copy or link" in " ".join(body)
    assert daemon.state() == "Running" and not (elsewhere / "snap").exists()


@pytest.mark.skipif(SANITIZED, reason="sanitizers and ptrace do not go together")
@pytest.mark.parametrize("error,said", [("EIO", "Input/output error"), ("ENOSPC", "the disk is full"), ("EDQUOT", "the disk quota is used up")])
def test_auto_does_not_take_a_failing_disk_for_another_filesystem(start, tmp_path, error, said):
    daemon = start()
    boot_in_file(daemon, tmp_path / "ram")
    daemon.put("vm.pause")
    with strace.Strace(tmp_path / "trace", strace.thread(daemon.process.pid, "vm"), "-e", f"inject=linkat:error={error}"):
        status, body = daemon.raw("PUT", "vm.snapshot", {"destination_url": f"file://{tmp_path / 'snap'}", "mode": "auto"})
    assert status == 500 and said in " ".join(body)
    assert not (tmp_path / "snap").exists() and snapshots.hidden(tmp_path / "snap") == []
    assert daemon.snapshot(tmp_path / "snap", mode="auto")["mode"] == "link"


@pytest.mark.skipif(SANITIZED, reason="sanitizers and ptrace do not go together")
def test_what_a_running_guest_has_dirtied_is_written_before_it_is_stopped(start, tmp_path):
    """The disk is slow; the guest stands still for the snapshot's own small files only."""
    daemon = start()
    boot_in_file(daemon, tmp_path / "ram")
    with strace.Strace(tmp_path / "trace", strace.thread(daemon.process.pid, "vm"), "-P", str(tmp_path / "ram"), "-e",
                       "trace=fsync", "-e", "inject=fsync:delay_enter=1s:when=1", follow=True):
        daemon.snapshot(tmp_path / "snap", mode="link", pause=True, resume=True)
    at = [daemon.events.wait("vm", event)["timestamp"] for event in ("snapshotting", "resumed")]
    stopped, resumed = (stamp["secs"] + stamp["nanos"] / 1e9 for stamp in at)
    assert "(DELAYED)" in (tmp_path / "trace").read_text()
    assert 0 <= resumed - stopped < 0.8


@pytest.mark.skipif(SANITIZED, reason="sanitizers and ptrace do not go together")
def test_an_error_of_the_disk_that_only_write_back_is_told_fails_the_snapshot(start, tmp_path):
    """The kernel tells each error once: a wait that forgets it leaves nothing for the fsync to find."""
    daemon = start()
    daemon.boot(bare("tick")).expect(r"^tick 3$")
    daemon.put("vm.pause")
    with strace.Strace(tmp_path / "trace", strace.thread(daemon.process.pid, "vm"), "-e", "inject=sync_file_range:error=EIO", follow=True):
        status, body = daemon.raw("PUT", "vm.snapshot", {"destination_url": f"file://{tmp_path / 'snap'}", "mode": "copy"})
    assert status == 500 and "Input/output error" in " ".join(body)
    assert not (tmp_path / "snap").exists() and daemon.state() == "Paused"


# Clocks

@pytest.mark.parametrize("clock", ["realtime", "continue"])
def test_the_wall_clock_catches_up_or_stays(start, linux, booted, tmp_path, clock):
    """What CLOCK_REALTIME of a Linux guest shows after three seconds without a machine."""
    if linux.stock:
        pytest.skip("one kernel is enough")

    def behind(line):
        """Seconds, at least and at most: it looks between the question and the answer. At first it is what the RTC was
        off when Linux read it."""
        asked = time.time()
        guest = float(line.ask("time", r"^time realtime ([\d.]+) ")[1])
        return asked - guest, time.time() - guest

    def rtc_behind(line):
        """Seconds, at most; the RTC shows whole ones."""
        found = line.ask("rtc", r"^rtc (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)$")[1]
        return time.time() - (time.mktime(time.strptime(found, "%Y-%m-%d %H:%M:%S")) - time.timezone)

    first = start()
    serial = first.restore(booted())
    # The clock that KVM keeps. What TSC the guest reads is not for everyone to say: a KVM may ignore its offset.
    source = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
    serial.ask(f"put {source} kvm-clock", r"^put \d+$")
    serial.ask(f"cat {source}", r"^kvm-clock$")
    before = behind(serial)
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap")
    first.stop()
    time.sleep(3)  # the time that passes is what is measured
    second = start()
    serial = second.restore(tmp_path / "snap", clock=clock)
    after = behind(serial)
    if clock == "realtime":
        assert after[0] - before[1] < 2, (before, after)
        assert rtc_behind(serial) < 2
        return
    assert after[1] - before[0] > 2.9, (before, after)
    assert rtc_behind(serial) > 2
    # What was left out once stays left out.
    second.put("vm.pause")
    second.snapshot(tmp_path / "later")
    second.stop()
    assert rtc_behind(start().restore(tmp_path / "later", clock="realtime")) > 2


def test_a_reboot_without_its_kernel_leaves_a_restored_vm_as_it_is(start, tmp_path):
    kernel = tmp_path / "tick.elf"
    shutil.copy(bare("tick"), kernel)
    first = start()
    first.boot(kernel).expect(r"^tick 3$")
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap")
    first.kill()
    kernel.unlink()
    second = start()
    serial = second.restore(tmp_path / "snap")
    status, body = second.raw("PUT", "vm.reboot")
    assert status >= 400 and "a reboot needs its kernel" in body[1] and str(kernel) in body[2], (status, body)
    assert second.state() == "Running"
    serial.ask("here", r"^echo here$")
    shutil.copy(bare("tick"), kernel)
    second.put("vm.reboot")
    serial.expect(r"tick 1$")  # what the guest was saying is cut off
    third = start()
    third.restore(tmp_path / "snap", overrides={"payload": {"kernel": bare("idle")}}).expect(r"^tick \d+$")
    third.put("vm.reboot")
    third.serials[-1].expect(r"idle$")
