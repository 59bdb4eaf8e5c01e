"""RAM of huge pages, from boot through a snapshot to a restore, on huge pages that the host really has."""
import contextlib
import pathlib

import pytest

from vmmd import bare

pytestmark = pytest.mark.guest

POOL = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
PAGE = 2 << 20
PAGES = 16


def count(name):
    return int((POOL / name).read_text(encoding="ascii"))


@pytest.fixture
def pool():
    """The host has as many huge pages free as the VM needs; afterwards as many as before."""
    if not POOL.exists():
        pytest.skip("HUGE PAGES ARE NOT TESTED: this kernel has none of 2 MiB")
    before = count("nr_hugepages")
    try:
        (POOL / "nr_hugepages").write_text(str(before + PAGES), encoding="ascii")
    except OSError as error:
        pytest.skip(f"HUGE PAGES ARE NOT TESTED: none can be set aside here: {error}")
    try:
        if count("free_hugepages") - count("resv_hugepages") < PAGES:
            pytest.skip("HUGE PAGES ARE NOT TESTED: the host's memory is too fragmented for 16 of them")
        yield
    finally:
        with contextlib.suppress(OSError):
            (POOL / "nr_hugepages").write_text(str(before), encoding="ascii")


def huge_bytes(daemon):
    """What of guest RAM lies in huge pages, by the kernel's account; nothing of it may lie in others."""
    sums = {"Shared_Hugetlb": 0, "Private_Hugetlb": 0, "Rss": 0}
    inside = False
    for line in open(f"/proc/{daemon.process.pid}/smaps", encoding="ascii"):
        words = line.split()
        if not words[0].endswith(":"):
            inside = "memfd:vmmd-ram" in line
        elif inside and words[0] == "KernelPageSize:":
            assert int(words[1]) * 1024 == PAGE
        elif inside and words[0][:-1] in sums:
            sums[words[0][:-1]] += int(words[1]) * 1024
    assert sums["Rss"] == 0  # of small pages
    return sums["Shared_Hugetlb"] + sums["Private_Hugetlb"]


def test_a_guest_in_huge_pages_is_snapshotted_and_restored_into_huge_pages(start, pool, tmp_path):
    first = start()
    config = first.config(bare("pattern"), memory=PAGES * PAGE)
    config["memory"]["hugepages"] = True
    first.put("vm.create", config)
    first.put("vm.boot")
    serial = first.serial()
    serial.expect(r"^pattern ready$")
    digest = serial.ask("w 7 2 30", r"^ok (\w+)$")[1]
    assert 28 << 20 <= huge_bytes(first) <= PAGES * PAGE
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap")
    first.put("vm.delete")
    first.stop()

    second = start()
    serial = second.restore(tmp_path / "snap", memory_restore_mode="copy")
    assert serial.ask("c 7 2 30", r"^ok (\w+)$")[1] == digest
    assert 28 << 20 <= huge_bytes(second) <= PAGES * PAGE
    second.put("vm.delete")

    # memory.bin's pages are the page cache's: small ones, whatever the first VM's were.
    third = start()
    serial = third.restore(tmp_path / "snap")
    assert serial.ask("c 7 2 30", r"^ok (\w+)$")[1] == digest
    assert huge_bytes(third) == 0
