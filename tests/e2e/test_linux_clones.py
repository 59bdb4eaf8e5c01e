"""Clones of one Linux are not the same machine: each gets a new VM Generation ID, and draws its own random numbers."""
import time

import pytest

from vmmd import PATIENCE


@pytest.fixture(autouse=True)
def only_ours(linux):
    if linux.stock:
        pytest.skip("Debian's stock kernel has not what this needs")


def messages(serial, word):
    """The kernel's messages with that word in them."""
    mark = serial.quiet_since()
    serial.ask(f"dmesg {word}", r"^end$")
    return serial.said_since(mark)


def reseeds(serial, wanted):
    """How often the kernel has reseeded because it was forked, once that is `wanted`: a work queue of its own does it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = messages(serial, "reseeded").count("random: crng reseeded due to virtual machine fork")
        if found >= wanted or time.monotonic() > deadline:
            return found


def random_number(serial):
    return serial.ask("random", r"^random ([0-9a-f]+-[0-9a-f]+)$")[1]


def test_two_clones_draw_different_random_numbers_at_once(start, booted):
    clones = [start(name=f"clone{n}") for n in range(2)]
    serials = [clone.restore(booted(), resume=False) for clone in clones]
    for clone in clones:
        clone.put("vm.resume")
    numbers = [random_number(serial) for serial in serials]  # the first that is asked of either
    assert numbers[0] != numbers[1]
    assert [reseeds(serial, 1) for serial in serials] == [1, 1]


def test_every_restore_of_a_clone_is_another_machine_again(start, booted, tmp_path):
    """Generations: a snapshot of a clone has its id, and its own clones have others."""
    first = start()
    serial = first.restore(booted())
    random_number(serial)
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap")
    first.stop()
    lines = [start(name=f"clone{n}").restore(tmp_path / "snap") for n in range(2)]
    assert random_number(lines[0]) != random_number(lines[1])
    assert [reseeds(line, 2) for line in lines] == [2, 2]


def test_a_vm_that_keeps_its_identity_is_told_nothing(start, booted):
    """For moving one VM, of which there shall not be two."""
    daemon = start()
    serial = daemon.restore(booted(), identity="keep")
    random_number(serial)
    assert "virtual machine fork" not in messages(serial, "reseeded")
    daemon.put("vm.pause")
    daemon.put("vm.resume")
    assert "virtual machine fork" not in messages(serial, "reseeded")
