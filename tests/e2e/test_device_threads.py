"""Which thread a device works on: those that share one are not held up by a disk that waits for the host, and a disk
runs on the CPUs that its configuration names."""
import concurrent.futures
import os
import pathlib
import sys
import time

import pytest

import netns
import strace
import vmmd

WITHOUT_IO_URING = (sys.executable, str(pathlib.Path(__file__).parent / "without_io_uring.py"))
IDLE_SECONDS = 2  # nothing may happen: that can only be seen by waiting
HELD_SECONDS = 60
DISKS = ("slow", "other")


def image(path, size=16 << 20):
    path.write_bytes(b"")
    os.truncate(path, size)
    return str(path)


def threads(daemon):
    """Name of each device thread -> its folder in /proc."""
    found = {}
    for task in pathlib.Path(f"/proc/{daemon.process.pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        if name == "vmmd-devices" or ":" in name:
            found[name] = task
    return found


def status(task, field):
    lines = (task / "status").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith(field + ":"))


@pytest.fixture(scope="module")
def with_devices(linux, tmp_path_factory):
    folder = tmp_path_factory.mktemp("threads")
    disks = [{"id": name, "path": image(folder / name)} for name in DISKS]
    with netns.namespace(), vmmd.leaving_snapshot(folder) as daemon:
        serial = linux.boot(daemon, more="tick=0 serve=1234", disks=disks, net=[{"id": "n", "tap": "tap0", "ip": "10.7.0.1", "mask": "255.255.255.0"}],
                            vsock={"cid": 5, "socket": str(folder / "v")},
                            console={"mode": "File", "file": str(folder / "console")})
        serial.ask("net up eth0 10.7.0.2 24", "^net up$")
    return folder


@pytest.fixture
def restored(start, with_devices):
    """restored() restores it where io_uring is forbidden: (daemon, serial). In a network of its own."""
    with netns.namespace():
        # The host's IPv6 would talk to the guest whenever it likes.
        pathlib.Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1", encoding="ascii")

        def restore():
            daemon = start(wrapper=WITHOUT_IO_URING)
            disks = [{"id": name, "path": image(daemon.folder / name)} for name in DISKS]
            overrides = {"disks": disks, "vsock": {"socket": str(daemon.folder / "v")},
                         "console": {"file": str(daemon.folder / "console")}}
            return daemon, daemon.restore(with_devices / "snapshot", overrides=overrides)
        yield restore


def pause_while_asking(daemon):
    """What vm.pause, which takes long, answers; and the slowest of the pings and vm.infos meanwhile, in seconds."""
    slowest = 0
    asked = 0
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        paused = pool.submit(daemon.raw, "PUT", "vm.pause")
        while not paused.done():
            begin = time.monotonic()
            daemon.get("vmm.ping")
            assert daemon.state() == "Running"
            slowest = max(slowest, time.monotonic() - begin)
            asked += 1
    assert asked > 3, "the pause was over before anything was asked"
    return *paused.result(), slowest


@pytest.mark.skipif(vmmd.SANITIZED, reason="sanitizers and ptrace do not go together")
def test_without_io_uring_a_disk_that_waits_for_the_host_holds_up_nobody(restored, tmp_path):
    daemon, serial = restored()
    serial.ask("disk write /dev/vda 3 0 4", r"^disk wrote 4$")
    written = daemon.get("vm.counters")["disk:slow"]["writes"]
    held = ("-e", "trace=pwritev2", "-e", f"inject=pwritev2:delay_enter={HELD_SECONDS}s:when=1")
    with strace.Strace(tmp_path / "trace", strace.thread(daemon.process.pid, "disk:slow"), *held) as trace:
        asked = time.monotonic()
        serial.ask("disk start /dev/vda 5 1 50", r"^disk writing$")
        serial.ask("disk write /dev/vdb 7 0 64", r"^disk wrote 64$")
        serial.ask("disk check /dev/vdb 7 0 64", r"^disk checked 64$")
        vmmd.echo_by_vsock(daemon.folder / "v")
        assert netns.ping("10.7.0.2")
        serial.ask("say /dev/hvc0 hello", r"^put \d+$")
        # The one write that is held is all that its only writer has asked for.
        assert daemon.get("vm.counters")["disk:slow"]["writes"] == written + 1
        status, body, slowest = pause_while_asking(daemon)
        assert status == 500 and body[-1].endswith("disk:slow"), body
        assert slowest < 1, f"{slowest:.3f} s for an answer while vm.pause waits"
        assert time.monotonic() - asked < HELD_SECONDS
        vmmd.echo_by_vsock(daemon.folder / "v")
        trace.cut()
    serial.ask("disk stop", r"^disk stopped \d+$")
    assert int(serial.ask("disk verify /dev/vda 5 0 50", r"^disk checked (\d+)$")[1]) > 0
    daemon.put("vm.pause")
    assert "hello" in (daemon.folder / "console").read_text()


def test_without_io_uring_idle_disks_wake_nobody(restored):
    daemon, serial = restored()
    serial.ask("disk write /dev/vdb 7 0 4", r"^disk wrote 4$")
    tasks = threads(daemon)
    assert sorted(tasks) == ["disk:other", "disk:slow", "vmmd-devices"]
    time.sleep(IDLE_SECONDS)
    before = [status(task, "voluntary_ctxt_switches") for task in tasks.values()]
    time.sleep(IDLE_SECONDS)
    assert [status(task, "voluntary_ctxt_switches") for task in tasks.values()] == before


@pytest.mark.guest
def test_a_disk_runs_on_the_cpus_of_its_queues(start, tmp_path):
    cpus = sorted(os.sched_getaffinity(0))[-2:]
    affinity = [{"queue_index": queue, "host_cpus": [cpu]} for queue, cpu in enumerate(cpus)]
    disks = [{"id": "bound", "path": image(tmp_path / "bound"), "num_queues": 2, "queue_affinity": affinity[:1]},
             {"id": "union", "path": image(tmp_path / "union"), "num_queues": 2, "queue_affinity": affinity},
             {"id": "free", "path": image(tmp_path / "free")}]

    def as_configured(daemon):
        tasks = threads(daemon)
        assert sorted(tasks) == ["disk:bound", "disk:union", "vmmd-devices"]
        assert status(tasks["disk:bound"], "Cpus_allowed_list") == str(cpus[0])
        allowed = int(status(tasks["disk:union"], "Cpus_allowed").replace(",", ""), 16)
        assert allowed == sum(1 << cpu for cpu in cpus)

    daemon = start()
    daemon.boot(vmmd.bare("pattern"), disks=disks).ask("w 7 2 4", "^ok ")
    as_configured(daemon)
    daemon.put("vm.reboot")
    as_configured(daemon)
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snapshot")
    daemon.kill()
    again = start(name="again")
    again.restore(tmp_path / "snapshot")
    as_configured(again)
