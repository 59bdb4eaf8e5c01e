"""A bzImage from the request to its last word. The kernel is a bare-metal guest behind Linux' setup header, which says
what the 64-bit boot protocol handed it and is up in milliseconds; test_linux.py boots a compressed Linux, which unpacks
itself for 20 s."""
import pytest

from vmmd import ApiError, BUILD

pytestmark = pytest.mark.guest

KERNEL = str(BUILD / "tests" / "guest" / "bzimage")
MEMORY = 64 << 20
INITRAMFS = bytes(range(256)) * 21 + b"the end"


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & (2**64 - 1)
    return f"{value:x}"


def test_boots_by_the_64_bit_protocol_with_command_line_memory_map_and_initramfs(daemon, tmp_path):
    initramfs = tmp_path / "initramfs"
    initramfs.write_bytes(INITRAMFS)
    payload = {"kernel": KERNEL, "cmdline": "one two=3", "initramfs": str(initramfs)}
    serial = daemon.boot(KERNEL, memory=MEMORY, payload=payload)
    serial.expect(r"^bzimage loader ff cs 10 cr3 9000$")
    serial.expect(r"^cmdline one two=3$")
    ranges = []
    while line := serial.expect(r"^(ram ([0-9a-f]+) ([0-9a-f]+)|initramfs.*)$"):
        if line[2] is None:
            break
        ranges.append((int(line[2], 16), int(line[3], 16)))
    assert ranges[0][0] == 0 and ranges[-1] == (1 << 20, MEMORY - (1 << 20))
    at, size, digest = line[1].split()[1:]
    assert int(size) == len(INITRAMFS) and digest == fnv(INITRAMFS)
    # As high as it goes, on a page of its own.
    assert int(at, 16) == (MEMORY - len(INITRAMFS)) & ~0xFFF
    serial.expect(r"^rsdp RSD PTR $")
    serial.ask("hello", r"^echo hello$")


def test_a_bzimage_goes_on_from_its_snapshot_and_after_a_reboot(start, tmp_path):
    first = start()
    first.boot(KERNEL, "words", memory=MEMORY).ask("one", r"^echo one$")
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap")
    first.kill()
    second = start()
    serial = second.restore(tmp_path / "snap")
    serial.ask("two", r"^echo two$")
    second.put("vm.reboot")
    serial.expect(r"^bzimage loader ff ")
    serial.expect(r"^cmdline words$")
    serial.ask("three", r"^echo three$")


def test_a_bzimage_cut_short_is_refused_with_both_sizes(daemon, tmp_path):
    whole = open(KERNEL, "rb").read()
    cut = tmp_path / "cut"
    cut.write_bytes(whole[:-1000])
    with pytest.raises(ApiError, match="is truncated") as refused:
        daemon.create(cut, memory=MEMORY)
        daemon.put("vm.boot")
    assert refused.value.status == 400
    assert str(len(whole) - 1024) in refused.value.text and str(len(whole) - 1024 - 1000) in refused.value.text
