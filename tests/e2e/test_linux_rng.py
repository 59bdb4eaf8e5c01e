"""virtio-rng in the Linux guest, which also shows that PCI devices are found, interrupt and come back."""


def hwrng(serial):
    """Linux keeps some bytes in store, and clones share the store: the last of a few reads is fresh."""
    return [serial.ask("hex /dev/hwrng 64", r"^hex ([0-9a-f]{128})$")[1] for _ in range(4)][-1]


def test_a_guest_draws_entropy_before_and_after_a_restore(start, booted, tmp_path):
    first = start()
    serial = first.restore(booted())
    assert serial.ask("cat /sys/class/misc/hw_random/rng_current", r"^(virtio_rng\.\d)$")
    drawn = {hwrng(serial)}
    place = first.get("vm.info")["config"]["rng"]["pci_device_id"]
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap")
    first.kill()

    for n in range(2):
        clone = start(name=f"clone{n}")
        line = clone.restore(tmp_path / "snap")
        drawn.add(hwrng(line))
        counters = clone.get("vm.counters")
        assert counters["rng"]["bytes"] >= 64
        assert counters["rng/pci"]["notifications"] >= 1
        assert counters["rng/pci"]["msix_interrupts"] >= 1
        assert clone.get("vm.info")["config"]["rng"]["pci_device_id"] == place
    assert len(drawn) == 3


def test_interrupts_go_by_the_pin_where_the_guest_wants_no_messages(start, linux, tmp_path):
    daemon = start()
    serial = linux.boot(daemon, more="tick=200 pci=nomsi")
    hwrng(serial)
    before = daemon.get("vm.counters")["rng/pci"]
    assert before["intx_interrupts"] >= 1 and before["msix_interrupts"] == 0
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snap")
    daemon.kill()
    clone = start(name="clone")
    hwrng(clone.restore(tmp_path / "snap"))
    assert clone.get("vm.counters")["rng/pci"]["intx_interrupts"] >= 1
