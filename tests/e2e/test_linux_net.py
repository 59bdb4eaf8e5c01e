"""virtio-net of the Linux guest over real taps: one device with every offload and two queue pairs, one with none."""
import contextlib
import re
import socket
import subprocess

import pytest

import netns
import vmmd
from linux import pattern
from strace import Strace

PORT = 80
ARP = 0x0806
# id -> (the guest's interface, the host's address, the guest's)
DEVICES = {"fast": ("eth0", "10.77.0.1", "10.77.0.2"), "plain": ("eth1", "10.78.0.1", "10.78.0.2")}
MAC, HOST_MAC = "02:12:34:56:78:9a", "02:65:43:21:0f:ed"
TUNSETOFFLOAD = 0x400454D0
ALL_OFFLOADS = 0x1F  # TUN_F_CSUM, TSO4, TSO6, TSO_ECN, UFO
NETWORKS = [
    {"id": "fast", "tap": "fast0", "ip": "10.77.0.1", "mask": "255.255.255.0", "num_queues": 4, "mac": MAC},
    {"id": "plain", "tap": "plain0", "ip": "10.78.0.1", "mask": "255.255.255.0", "mtu": 1400, "host_mac": HOST_MAC,
     "offload_csum": False, "offload_tso": False, "offload_ufo": False},
]


def set_up(serial):
    for interface, _, guest in DEVICES.values():
        serial.ask(f"net up {interface} {guest} 24", "^net up$")
    serial.ask(f"net listen {PORT}", "^net listening$")


@pytest.fixture
def namespace():
    with netns.namespace():
        yield


@pytest.fixture(scope="module")
def with_net(linux, tmp_path_factory):
    folder = tmp_path_factory.mktemp("net")
    with netns.namespace(), vmmd.leaving_snapshot(folder) as daemon:
        serial = linux.boot(daemon, cpus=2, net=NETWORKS)
        set_up(serial)
    return folder / "snapshot"


@pytest.fixture
def guest(with_net, namespace, start):
    """(daemon, serial line) of a restored guest, its taps in a namespace of the test's own."""
    daemon = start()
    return daemon, daemon.restore(with_net)


def counters(daemon, name):
    return daemon.get("vm.counters")[f"net:{name}"]


def all_of(stream, size):
    data = bytearray()
    while len(data) < size:
        piece = stream.recv(min(size - len(data), 65536))
        assert piece, f"the stream ended after {len(data)} of {size} bytes"
        data += piece
    return bytes(data)


@contextlib.contextmanager
def to_guest(serial, address):
    with socket.create_connection((address, PORT), vmmd.PATIENCE) as stream:
        serial.ask("net accept", "^net accepted$")
        yield stream


@contextlib.contextmanager
def from_guest(serial, host):
    with netns.listen(host) as listener:
        serial.ask(f"net connect {host} {listener.getsockname()[1]}", "^net connected$")
        stream, _ = listener.accept()
        stream.settimeout(vmmd.PATIENCE)
        with stream:
            yield stream


def transfers(serial, stream, kib=256):
    """So much each way, whole and in order."""
    serial.send(f"net send 3 {kib}")
    assert all_of(stream, kib << 10) == pattern(3, kib << 10)
    serial.expect(r"^ok \w+$")
    serial.send(f"net receive 4 {kib}")
    stream.sendall(pattern(4, kib << 10))
    serial.expect(r"^ok \w+$")


@pytest.mark.parametrize("name", DEVICES)
def test_pings_and_tcp_both_ways(guest, name):
    daemon, serial = guest
    _, host, address = DEVICES[name]
    for size in (8, 56, 1400, 8000):
        assert netns.ping(address, size), size
    with to_guest(serial, address) as stream:
        transfers(serial, stream)
    with netns.frames(NETWORKS[list(DEVICES).index(name)]["tap"]) as sniffer:
        with from_guest(serial, host) as stream:
            transfers(serial, stream)
        from_guest_, to_guest_ = netns.longest_frames(sniffer)
    # Segments larger than frames pass whole where they may.
    assert (from_guest_ > 1514) == (name == "fast"), from_guest_
    assert (to_guest_ > 1514) == (name == "fast"), to_guest_
    assert name == "fast" or max(from_guest_, to_guest_) == 1414  # its MTU and an Ethernet header
    seen = counters(daemon, name)
    assert seen["rx_bytes"] > 512 << 10 and seen["tx_bytes"] > 512 << 10 and seen["backend_failures"] == 0


def test_mtu_and_mac_of_the_hosts_end_are_as_configured_and_known_to_the_guest(guest):
    _, serial = guest
    mtus = {}
    for name, (interface, _, address) in DEVICES.items():
        assert netns.ping(address)
        mtus[name] = int(serial.ask(f"cat /sys/class/net/{interface}/mtu", r"^(\d+)\s*end$")[1]), netns.mtu(f"{name}0")
    assert mtus == {"fast": (1500, 1500), "plain": (1400, 1400)}
    assert netns.mac("plain0") == HOST_MAC != netns.mac("fast0")
    # It is whom the guest talks to.
    serial.ask("cat /proc/net/arp", rf"^10\.78\.0\.1 .* {HOST_MAC} ")


def queue_interrupts(serial):
    """Of the device with two pairs: {"input.0": how many have come, …}"""
    text = serial.ask("cat /proc/interrupts", r"^ +CPU0(?s:(.*?))^end$")[1]
    found = re.findall(r"^ *\d+: +(\d+) +(\d+) .*(virtio\d+)-((?:in|out)put\.\d)\r?$", text, re.MULTILINE)
    with_two = {device for *_, device, queue in found if queue == "input.1"}
    assert len(with_two) == 1, text
    return {queue: int(one) + int(other) for one, other, device, queue in found if device in with_two}


def test_both_queue_pairs_carry_traffic(guest):
    daemon, serial = guest
    serial.ask("cat /sys/class/net/eth1/queues/rx-1/rps_cpus", r"^cat: error 2$")
    for cpu in (1, 0):  # Linux sends by the CPU's own queue, and the tap answers by that
        before = queue_interrupts(serial)
        serial.ask(f"pin {cpu}", "^pin 0$")
        with from_guest(serial, DEVICES["fast"][1]) as stream:
            transfers(serial, stream, kib=64)
        after = queue_interrupts(serial)
        assert after[f"input.{cpu}"] > before[f"input.{cpu}"], (before, after)
    assert daemon.get("vm.info")["config"]["net"][0]["num_queues"] == 4


def test_offloads_are_the_drivers_again_after_a_restore(with_net, namespace, start, tmp_path):
    daemon = start()
    daemon.get("vmm.ping")
    with Strace(tmp_path / "trace", daemon.process.pid, "-e", "trace=ioctl", "-X", "raw", follow=True) as trace:
        daemon.restore(with_net)
        assert netns.ping(DEVICES["fast"][2]) and netns.ping(DEVICES["plain"][2])
    # By descriptor: the last words on it. Opening tries what the kernel can, and ends with none.
    last = {}
    for descriptor, flags in re.findall(rf"ioctl\((\w+), {TUNSETOFFLOAD:#x}, (\w+)\)", trace.text):
        last[descriptor] = int(flags, 16)
    fast, plain = sorted(last.values(), reverse=True)
    assert fast & ALL_OFFLOADS == ALL_OFFLOADS and plain == 0, last


def test_the_hosts_address_may_be_overridden_and_the_guests_counts_from_its_next_boot(with_net, namespace, start):
    mac, host_mac = "02:ab:cd:ef:12:34", "02:99:88:77:66:55"
    daemon = start()
    overrides = {"net": [{"id": "fast", "tap": "other0", "mac": mac, "host_mac": host_mac}]}
    serial = daemon.restore(with_net, resume=False, overrides=overrides)
    with netns.frames("other0") as sniffer:
        daemon.put("vm.resume")
        source, _ = netns.next_frame(sniffer, ARP)
        assert source.hex(":") == MAC  # its driver has read it already
    assert netns.ping(DEVICES["fast"][2])
    assert netns.mac("other0") == host_mac
    serial.ask("cat /sys/class/net/eth0/address", f"^{MAC}$")
    assert daemon.get("vm.info")["config"]["net"][0]["mac"] == mac


def test_a_snapshot_under_traffic_tears_nothing(guest, start, tmp_path):
    daemon, serial = guest
    kib = 512
    with from_guest(serial, DEVICES["fast"][1]) as stream:
        serial.send(f"net send 5 {kib}")
        half = all_of(stream, kib << 9)
        daemon.put("vm.pause")
        daemon.snapshot(tmp_path / "snap")
        daemon.put("vm.resume")
        assert half + all_of(stream, kib << 9) == pattern(5, kib << 10)
        serial.expect(r"^ok \w+$")
        daemon.kill()

    clone = start(name="clone")
    moved = [{"id": "fast", "tap": "moved0"}, {"id": "plain", "tap": "moved1"}]
    clone.restore(tmp_path / "snap", resume=False, overrides={"net": moved})
    with netns.frames("moved0") as sniffer:
        clone.put("vm.resume")
        # The announcement: who has the guest's address? The guest.
        asked = socket.inet_aton(DEVICES["fast"][2])
        while True:
            source, question = netns.next_frame(sniffer, ARP)
            if question[14:18] == question[24:28] == asked:
                break
        assert source.hex(":") == MAC
    assert netns.ping(DEVICES["fast"][2])
    # The agent may wait long for the stream, whose peer has forgotten it; the guest's network does not.
    assert netns.ping(DEVICES["plain"][2])


def test_clones_in_namespaces_of_their_own_have_one_address(with_net, start):
    with contextlib.ExitStack() as namespaces:
        for n in range(2):
            namespaces.enter_context(netns.namespace())
            clone = start(name=f"clone{n}")
            line = clone.restore(with_net)
            assert netns.ping(DEVICES["fast"][2])
            with to_guest(line, DEVICES["fast"][2]) as stream:
                transfers(line, stream, kib=64)
            # The first is alive, but not from here.
            assert counters(clone, "fast")["rx_frames"] > 0


def test_a_tap_that_is_deleted_takes_only_itself_down(guest, start, tmp_path):
    daemon, serial = guest
    assert netns.ping(DEVICES["fast"][2])
    netns.ip("link", "del", "fast0")
    event = daemon.events.wait("device", "backend-failed")
    assert event["properties"]["unit"] == "net:fast", event
    assert counters(daemon, "fast")["backend_failures"] == 1
    serial.ask("cat /sys/class/net/eth0/carrier", r"^0$")
    assert netns.ping(DEVICES["plain"][2])
    with to_guest(serial, DEVICES["plain"][2]) as stream:
        transfers(serial, stream, kib=64)
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snap")
    daemon.kill()

    clone = start(name="clone")
    line = clone.restore(tmp_path / "snap")
    assert netns.ping(DEVICES["fast"][2])
    line.ask("cat /sys/class/net/eth0/carrier", r"^1$")


def test_a_tap_that_is_taken_is_refused(guest, start):
    status, body = start().raw("PUT", "vm.create", {"payload": {"kernel": vmmd.bare("idle")}, "net": [{"tap": "plain0"}]})
    assert status in (400, 409, 500) and "plain0" in " ".join(body), (status, body)


@contextlib.contextmanager
def passt_at(path, *options, wrapper=()):
    """passt, which gives the guest 10.79.0.2 and the host's loopback as 10.79.0.1."""
    passt = subprocess.Popen([*wrapper, "passt", "--foreground", "--socket", path, *options, "-a", "10.79.0.2", "-n", "24",
                              "-g", "10.79.0.1", "-t", "8080:80", "-q"], stderr=subprocess.PIPE, text=True)
    try:
        vmmd.eventually(lambda: path.exists() or passt.poll() is not None)
        assert passt.poll() is None, passt.stderr.read()
        yield passt
    finally:
        passt.kill()
        passt.wait()


def through_passt(serial):
    with netns.listen("127.0.0.1") as listener:
        serial.ask(f"net connect 10.79.0.1 {listener.getsockname()[1]}", "^net connected$")
        stream, _ = listener.accept()
        with stream:
            stream.settimeout(vmmd.PATIENCE)
            transfers(serial, stream, kib=64)


def test_passt_serves_a_guest_without_a_tap(namespace, start, linux, tmp_path):
    netns.ip("tuntap", "add", "out", "mode", "tap")
    netns.ip("addr", "add", "192.0.2.2/24", "dev", "out")
    netns.ip("link", "set", "out", "up")
    netns.ip("route", "add", "default", "via", "192.0.2.1")
    path = tmp_path / "passt"
    tmp_path.chmod(0o755)
    with passt_at(path, "--runas", "0") as passt:
        daemon = start()
        serial = linux.boot(daemon, net=[{"passt": str(path)}])
        serial.ask("net up eth0 10.79.0.2 24", "^net up$")
        through_passt(serial)
        daemon.put("vm.pause")
        daemon.snapshot(tmp_path / "snap")
        daemon.put("vm.resume")
        passt.kill()
        event = daemon.events.wait("device", "backend-failed")
        assert event["properties"]["unit"].startswith("net:"), event
        serial.ask("echo still here", "^echo still here$")
