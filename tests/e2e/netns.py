"""A network namespace for a test and all that it starts, and what a test does in it as the guest's peer."""
import contextlib
import ctypes
import fcntl
import itertools
import os
import re
import socket
import struct
import subprocess
import time

import pytest

from vmmd import PATIENCE

CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3

_libc = ctypes.CDLL(None, use_errno=True)
_calls = itertools.count(1)


@contextlib.contextmanager
def namespace():
    """Threads and processes started inside live in it. Needs root and /dev/net/tun."""
    if os.geteuid() != 0 or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("NETWORK TESTS NEED ROOT AND /dev/net/tun: taps and namespaces are not tested here")
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if _libc.unshare(CLONE_NEWNET) != 0:
            pytest.skip(f"no network namespace can be made here: {os.strerror(ctypes.get_errno())}")
        ip("link", "set", "lo", "up")
        yield
    finally:
        assert _libc.setns(before, CLONE_NEWNET) == 0
        os.close(before)


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x4000, 0x0100


@contextlib.contextmanager
def open_tap(name, address=None, queues=1, flags=IFF_TAP | IFF_NO_PI | IFF_VNET_HDR):
    """A tap of ours, up: its descriptors, one for each queue, for the block. It goes with the last that has it open."""
    fds = []
    try:
        for _ in range(queues):
            fds.append(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
            mode = flags | (IFF_MULTI_QUEUE if queues > 1 else 0)
            fcntl.ioctl(fds[-1], TUNSETIFF, struct.pack("16sH22x", name.encode(), mode))
        if address:
            ip("addr", "add", f"{address}/24", "dev", name)
        ip("link", "set", name, "up")
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def exists(interface):
    return subprocess.run(["ip", "link", "show", interface], capture_output=True).returncode == 0


def mac(interface):
    shown = subprocess.run(["ip", "-o", "link", "show", interface], check=True, capture_output=True, text=True).stdout
    return re.search(r"link/ether (\S+)", shown)[1]


def mtu(interface):
    shown = subprocess.run(["ip", "-o", "link", "show", interface], check=True, capture_output=True, text=True).stdout
    return int(re.search(r" mtu (\d+) ", shown)[1])


def _checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ping(address, size=56, timeout=PATIENCE):
    """Whether an ICMP echo with so much data (even) comes back as it was sent. One is sent each second, as ping does: who
    answers no ARP for three seconds, because its host is busy, never gets what was sent meanwhile."""
    data = bytes(n * 7 & 0xFF for n in range(size))
    call = next(_calls)  # answers to an earlier call may still come
    header = struct.pack("!BBHHH", 8, 0, 0, 0x1234, call)
    request = struct.pack("!BBHHH", 8, 0, _checksum(header + data), 0x1234, call) + data
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as icmp:
        icmp.settimeout(1)
        while time.monotonic() < deadline:
            icmp.sendto(request, (address, 0))
            with contextlib.suppress(TimeoutError):
                while True:
                    packet, (source, _) = icmp.recvfrom(65536)
                    if source == address and packet[20] == 0 and packet[26:28] == header[6:8]:
                        return packet[28:] == data
    return False


def listen(address):
    listener = socket.create_server((address, 0))
    listener.settimeout(PATIENCE)
    return listener


@contextlib.contextmanager
def frames(interface):
    """Everything that comes in on an interface from now on, as `next_frame` reads it."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as sniffer:
        sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sniffer.bind((interface, 0))
        sniffer.settimeout(PATIENCE)
        yield sniffer


def longest_frames(sniffer):
    """Of those that have come so far: (from the guest, to the guest), bytes."""
    longest = {True: 0, False: 0}
    sniffer.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            frame, address = sniffer.recvfrom(65536)
            outgoing = address[2] == socket.PACKET_OUTGOING
            longest[outgoing] = max(longest[outgoing], len(frame))
    return longest[False], longest[True]


def next_frame(sniffer, ethertype):
    """The next one of this type: (source MAC, payload)."""
    while True:
        frame = sniffer.recv(65536)
        if struct.unpack("!H", frame[12:14])[0] == ethertype:
            return frame[6:12], frame[14:]
