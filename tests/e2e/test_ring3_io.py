"""Disk and network of a bare-metal guest that drives the queues from ring 3 by polling (tests/guest/bare/requests.c)."""
import struct

import pytest

import netns
import vmmd

BLOCK, SECTOR = 4096, 512
BLOCKS = 256
STAMP = 0x9E3779B97F4A7C15
ETHERTYPE = 0x88B5
QUEUE_MODES = ["", "flags"]  # with event index, and without

pytestmark = pytest.mark.guest


def stamps(sector):
    value = (sector + 1) * STAMP & 2**64 - 1
    return struct.pack("<Q", value), struct.pack("<Q", value ^ 2**64 - 1)


def run(serial, job, count):
    """The guest does a job of so many requests, none of which may come back wrong; how often it rang the doorbell."""
    serial.send(job)
    done = serial.expect(r"^(done|late|cannot) .*$").group(0)
    words = done.split()
    assert words[:2] == ["done", str(count)], done
    assert words[-2:] == ["bad", "0"], done
    return int(words[words.index("doorbells") + 1])


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(BLOCKS * BLOCK)
    return path


@pytest.mark.parametrize("mode", QUEUE_MODES)
def test_what_is_written_is_in_the_image_and_read_back_also_by_a_clone(start, image, tmp_path, mode):
    daemon = start()
    serial = daemon.boot(vmmd.bare("requests"), mode, disks=[{"path": str(image), "id": "disk"}])
    serial.expect(rf"^ready blocks {BLOCKS}$")
    rung = run(serial, f"write {BLOCKS} 32", BLOCKS)
    data = image.read_bytes()
    for sector in range(BLOCKS * BLOCK // SECTOR):
        first, last = stamps(sector)
        assert data[sector * SECTOR:][:8] == first
        assert data[(sector + 1) * SECTOR - 8:][:8] == last
    rung += run(serial, "read 300 1", 300)  # over the end and on from the start
    counters = daemon.get("vm.counters")
    assert counters["disk:disk"]["writes"] == BLOCKS
    assert counters["disk:disk"]["reads"] == 300
    transport = counters["disk:disk/pci"]
    # The doorbell is an ioeventfd; two rings before we look are one notification. A polling driver gets no interrupt.
    assert 0 < transport["notifications"] <= rung
    assert transport["mmio_notifications"] == transport["msix_interrupts"] == transport["intx_interrupts"] == 0

    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snap")
    daemon.kill()
    clone = start(name="clone")
    line = clone.restore(tmp_path / "snap")
    run(line, f"read {BLOCKS} 32", BLOCKS)
    run(line, f"write {BLOCKS} 1", BLOCKS)
    assert clone.get("vm.counters")["disk:disk"]["writes"] == BLOCKS


def test_the_guest_sees_what_is_wrong_on_the_disk(start, image):
    daemon = start()
    serial = daemon.boot(vmmd.bare("requests"), disks=[{"path": str(image)}])
    serial.expect(rf"^ready blocks {BLOCKS}$")
    serial.send("read 3 1")
    serial.expect(r"^done 3 .* bad 3$")  # nobody has stamped it


def test_a_driver_that_breaks_the_rules_is_told_of_and_harms_itself_only(start, image, tmp_path):
    daemon = start()
    serial = daemon.boot(vmmd.bare("requests"), disks=[{"path": str(image), "id": "disk"}])
    serial.expect(rf"^ready blocks {BLOCKS}$")
    serial.ask("break", "^broken$")
    reason = "the available index is more than the queue's size ahead"
    told = daemon.events.wait("device", "needs-reset")
    assert told["properties"] == {"unit": "disk:disk", "reason": reason, "times": "1"}
    assert daemon.get("vm.counters")["disk:disk/pci"]["needs_reset"] == 1
    assert daemon.log.read_text().count(reason) == 1
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snapshot")
    daemon.put("vm.resume")
    assert daemon.state() == "Running"


@pytest.mark.parametrize("mode", QUEUE_MODES)
def test_frames_go_out_and_come_in_in_order(start, mode):
    with netns.namespace():
        netns.ip("tuntap", "add", "ring3", "mode", "tap", "vnet_hdr")
        netns.ip("link", "set", "ring3", "up")
        daemon = start()
        serial = daemon.boot(vmmd.bare("requests"), mode, net=[{"tap": "ring3", "id": "net"}])
        serial.expect(r"^ready blocks 0$")
        with netns.frames("ring3") as sniffer:
            run(serial, "send 200 32 1514", 200)
            for number in range(200):
                _, payload = netns.next_frame(sniffer, ETHERTYPE)
                assert len(payload) == 1500
                assert struct.unpack("<Q", payload[:8]) == (number,)
            serial.send("receive 200")
            serial.expect(r"^receiving$")
            for number in range(200):
                sniffer.send(bytes(range(12)) + struct.pack("!H", ETHERTYPE) + struct.pack("<Q", number) + bytes(78))
            serial.expect(r"^done 200 .* bad 0$")
        assert daemon.get("vm.counters")["net:net"]["tx_frames"] == 200
