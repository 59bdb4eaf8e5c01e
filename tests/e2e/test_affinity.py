"""vCPUs run on the host's CPUs that they are given, and a CPU that cannot be had is refused."""
import os
import pathlib

import pytest

from vmmd import bare

pytestmark = pytest.mark.guest

MINE = sorted(os.sched_getaffinity(0))


def allowed(daemon):
    """The host CPUs of each vCPU's thread, by its name."""
    found = {}
    for task in pathlib.Path(f"/proc/{daemon.process.pid}/task").iterdir():
        name = (task / "comm").read_text(encoding="ascii").strip()
        if name.startswith("vcpu"):
            found[name] = sorted(os.sched_getaffinity(int(task.name)))
    return found


def on(*pairs):
    return [{"vcpu": vcpu, "host_cpus": cpus} for vcpu, cpus in pairs]


def with_affinity(daemon, affinity, cpus=3):
    config = daemon.config(bare("smp"), f"cpus={cpus}", cpus=cpus)
    config["cpus"]["affinity"] = affinity
    return config


def test_vcpus_run_where_they_are_told_after_boot_reboot_and_restore(start, tmp_path):
    first, last = MINE[:1], MINE[-1:]
    daemon = start()
    daemon.put("vm.create", with_affinity(daemon, on((0, last), (1, first))))
    daemon.put("vm.boot")
    daemon.serial().expect(r"^cpus 3$")
    wanted = {"vcpu0": last, "vcpu1": first, "vcpu2": MINE}
    assert allowed(daemon) == wanted
    daemon.put("vm.reboot")
    assert allowed(daemon) == wanted
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snap")
    daemon.kill()

    again = start(name="again")
    again.restore(tmp_path / "snap").ask("c", r"^counters ")
    assert allowed(again) == wanted

    moved = start(name="moved")
    overrides = {"cpus": {"affinity": on((0, first), (2, last))}}
    moved.restore(tmp_path / "snap", overrides=overrides).ask("c", r"^counters ")
    assert allowed(moved) == {"vcpu0": first, "vcpu1": MINE, "vcpu2": last}


def test_a_host_cpu_that_is_not_there_is_refused_at_create(start):
    daemon = start()
    missing = os.sysconf("SC_NPROCESSORS_CONF")
    status, body = daemon.raw("PUT", "vm.create", with_affinity(daemon, on((1, [MINE[0], missing]))))
    assert status == 400 and f"/cpus/affinity/0/host_cpus: there is no CPU {missing}" in " ".join(body), body


@pytest.mark.skipif(len(MINE) < 2, reason="ONE CPU ONLY: none can be kept from vmmd")
def test_a_host_cpu_that_vmmd_is_kept_from_is_refused_at_create_and_at_restore(start, tmp_path):
    free = start(name="free")
    free.put("vm.create", with_affinity(free, on((0, MINE[1:2])), cpus=1))
    free.put("vm.boot")
    free.put("vm.pause")
    free.snapshot(tmp_path / "snap")
    free.kill()

    kept = start(name="kept", wrapper=("taskset", "-c", str(MINE[0])))
    wanted = f"/cpus/affinity/0/host_cpus: vmmd may not run on CPU {MINE[1]}"
    status, body = kept.raw("PUT", "vm.create", with_affinity(kept, on((0, MINE[1:2])), cpus=1))
    assert status == 400 and wanted in " ".join(body), body
    status, body = kept.raw("PUT", "vm.restore", {"source_url": f"file://{tmp_path / 'snap'}"})
    assert status == 400 and wanted in " ".join(body), body
    kept.restore(tmp_path / "snap", overrides={"cpus": {"affinity": on((0, MINE[:1]))}}).ask("c", r"^counters ")
    assert allowed(kept) == {"vcpu0": MINE[:1]}
