"""The figures: each measures vmmd and its floor in turns, so that both saw the same machine."""
import ctypes
import fcntl
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import time

from daemon import (FLOOR, FORMAT, BenchError, Connection, Daemon, run_floor, spawn, time_sharing, time_spawn_to_byte,
                    vm_config, wait_readable)

# Byte after byte: the first one after a restore waits for nothing. And an idle guest, which a timer wakes every 5 ms to
# write one.
SPINNING = "period_us=0"
IDLE = "sleep period_us=5000"


def start(bench):
    """Process start -> ping answered; memory of the idle daemon."""
    took, floor, rss, anonymous = [], [], [], []
    for _ in range(bench.rounds(50)):
        floor.append(time_spawn_to_byte(FLOOR, ["byte"]))
        with Daemon(bench.folder) as daemon:
            daemon.connect().connection.call("GET", "vmm.ping")
            took.append((time.perf_counter() - daemon.started) * 1e6)
            daemon.settle()
            memory = daemon.rollup()
            rss.append(memory["Rss"] / 1024)
            anonymous.append(memory["Anonymous"] / 1024)
    bench.add("process start -> ping answered", "ms", [t / 1e3 for t in took], [f / 1e3 for f in floor],
              lambda row: row["median"] <= 1.5, "<= 1.5 ms", tail=True)
    bench.add("idle daemon: RSS", "MiB", rss, None, lambda row: row["median"] <= 3.5, "<= 3.5 MiB")
    bench.add("  of it anonymous: a second vmmd costs no more", "MiB", anonymous)


def boot(bench):
    """Boot request -> the guest's first instruction, which writes a byte."""
    took, floor = [], []
    for _ in range(bench.rounds(30)):
        floor += run_floor("vm", 256, 1)
        with Daemon(bench.folder) as daemon:
            daemon.connect().settle()
            daemon.connection.call("PUT", "vm.create", vm_config(256, SPINNING))
            took.append(daemon.time_to_byte("PUT", "vm.boot"))
    bench.add("boot request -> first guest byte, 256 MiB", "ms", [t / 1e3 for t in took], [f / 1e3 for f in floor],
              lambda row: row["ratio"] <= 2, "<= 2x floor", tail=True)


def echo_floor(rounds):
    """A message and its answer over a socket, with a process that does nothing else."""
    here, there = socket.socketpair()
    pid = spawn(FLOOR, ["echo"], there.fileno())
    there.close()
    took = []
    request = Connection.request("GET", "vm.info")
    for _ in range(rounds):
        begin = time.perf_counter()
        here.sendall(request)
        here.recv(65536)
        took.append((time.perf_counter() - begin) * 1e6)
    here.close()
    os.waitpid(pid, 0)
    return took


def requests(bench):
    """Pause, resume and vm.info of an idle guest."""
    rounds = bench.rounds(500)
    floor = [f / 1e3 for f in echo_floor(rounds)]
    with bench.source(256, IDLE) as daemon:
        pause, resume, info, ping = [], [], [], []
        for _ in range(bench.rounds(200)):
            pause.append(daemon.connection.time_call("PUT", "vm.pause") / 1e3)
            resume.append(daemon.connection.time_call("PUT", "vm.resume") / 1e3)
            daemon.drain()
        for _ in range(rounds * 4):
            ping.append(daemon.connection.time_call("GET", "vmm.ping") / 1e3)
            info.append(daemon.connection.time_call("GET", "vm.info") / 1e3)
            daemon.drain()
    bench.add("pause request", "ms", pause, floor, lambda row: row["median"] <= 0.3, "<= 0.3 ms", tail=True)
    bench.add("resume request", "ms", resume, floor, lambda row: row["median"] <= 0.3, "<= 0.3 ms", tail=True)
    bench.add("vmm.ping", "ms", ping, floor, tail=True)
    bench.add("vm.info", "ms", info, floor, lambda row: row["median"] <= 0.13 and row["p99"] <= 1,
              "<= 0.13, p99 <= 1 ms", tail=True)


def restore_body(path):
    return {"source_url": f"file://{path}", "resume": True}


SIZES = [(256, "256 MiB"), (1024, "1 GiB"), (4096, "4 GiB"), (8192, "8 GiB")]


def restore(bench):
    """Restore request -> first guest byte, with the daemon running and with its start."""
    for mib, name in SIZES:
        path = bench.snapshot(f"spin-{mib}", mib, f"mib=16 {SPINNING}")
        memory = os.path.join(path, "memory.bin")
        took, floor, started, started_floor, warm = [], [], [], [], []
        for _ in range(bench.rounds(25)):
            floor += run_floor("vm", mib, 1, memory)
            with Daemon(bench.folder) as daemon:
                daemon.connect().settle()
                took.append(daemon.time_to_byte("PUT", "vm.restore", restore_body(path)))
            warm += run_floor("warm", mib, 1, memory)
            started_floor.append(time_spawn_to_byte(FLOOR, ["vmbyte", mib, memory]))
            with Daemon(bench.folder, "--restore", f"source_url=file://{path},resume=true") as daemon:
                wait_readable(daemon.serial, "--restore")
                started.append((time.perf_counter() - daemon.started) * 1e6)
        bench.add(f"restore request -> first guest byte, {name}", "ms", [t / 1e3 for t in took],
                  [f / 1e3 for f in floor], lambda row: row["ratio"] <= 2, "<= 2x floor", tail=True)
        bench.add(f"  against a floor with KVM already open, {name}", "ms", [t / 1e3 for t in took],
                  [f / 1e3 for f in warm])
        bench.add(f"  with process start, {name}", "ms", [t / 1e3 for t in started],
                  [f / 1e3 for f in started_floor], lambda row: row["median"] <= 3, "<= 3 ms", tail=True)


def all_devices(bench):
    """Four disks, four networks (as root, which taps need) and one of everything else. The rng is always there."""
    def image(name):
        with open(bench.at(name), "wb") as file:
            file.truncate(16 << 20)
        return bench.at(name)

    devices = {"disks": [{"path": image(f"disk{n}")} for n in range(4)], "pmem": [{"file": image("pmem")}],
               "vsock": {"cid": 3, "socket": bench.at("vsock")}, "console": {"mode": "Null"},
               "balloon": {"size": 0}, "watchdog": True}
    if os.geteuid() == 0:
        devices["net"] = [{"tap": f"vmmdb{os.getpid() % 100000}{n}"} for n in range(4)]
    return devices


def device_floor(count):
    """Milliseconds that the host takes to make the taps and io_urings of `count` disks and networks."""
    nets = count if os.geteuid() == 0 else 0
    held, libc, start = [], ctypes.CDLL(None, use_errno=True), time.perf_counter()
    for n in range(nets):
        held.append(os.open("/dev/net/tun", os.O_RDWR))
        name = f"vmmdf{os.getpid() % 100000}{n}".encode()
        fcntl.ioctl(held[-1], 0x400454CA, struct.pack("16sH22x", name, 0x5002))  # TUNSETIFF, IFF_TAP|NO_PI|VNET_HDR
    for _ in range(count):
        ring = libc.syscall(425, 256, ctypes.create_string_buffer(120))  # io_uring_setup
        if ring >= 0:
            held.append(ring)
    took = (time.perf_counter() - start) * 1e3
    for fd in held:
        os.close(fd)
    return took


def devices(bench):
    """What devices add to a restore and to a clone's memory; the floor is the same VM without them, and the making of
    taps and io_urings alone."""
    paths = [bench.snapshot("spin-256", 256, f"mib=16 {SPINNING}"),
             bench.snapshot("devices-256", 256, f"mib=16 {SPINNING}", all_devices(bench))]
    took, private, floor = ([], []), ([], []), []
    for _ in range(bench.rounds(25)):
        floor.append(device_floor(4))
        for i, path in enumerate(paths):
            with Daemon(bench.folder) as daemon:
                daemon.connect().settle()
                took[i].append(daemon.time_to_byte("PUT", "vm.restore", restore_body(path)) / 1e3)
                private[i].append(daemon.rollup()["Private"] / 1024)
    nets = "4 nets, " if os.geteuid() == 0 else ""
    floor = [without + opens for without, opens in zip(took[0], floor)]
    bench.add(f"restore with 4 disks, {nets}one of everything else; floor: without, and taps and rings", "ms", took[1],
              floor, lambda row: row["ratio"] <= 1.5, "<= 1.5x", tail=True)
    bench.add("  private memory that they add", "MiB", [b - a for a, b in zip(*private)], None,
              lambda row: row["median"] <= 1, "<= 1 MiB")


def clone_memory(bench):
    """What a clone that idles has for itself 50 ms after its restore, beside another: what both map of vmmd and of
    memory.bin is shared, as it is in a fleet."""
    path = bench.snapshot("idle-1024", 1024, f"mib=64 {IDLE}")
    private = []
    for _ in range(bench.rounds(15)):
        with Daemon(bench.folder) as other, Daemon(bench.folder) as daemon:
            other.connect().settle()
            other.time_to_byte("PUT", "vm.restore", restore_body(path))
            daemon.connect().settle()
            daemon.time_to_byte("PUT", "vm.restore", restore_body(path))
            time.sleep(0.05)
            private.append(daemon.rollup()["Private"] / 1024)
    bench.add("idle clone, 50 ms later: private memory", "MiB", private, None, lambda row: row["median"] <= 0.7,
              "<= 0.7 MiB")


def clones(bench):
    """N processes restoring one snapshot at once, until the last guest has written a byte."""
    path = bench.snapshot("idle-1024", 1024, f"mib=64 {IDLE}")
    memory = os.path.join(path, "memory.bin")
    for count in (25, 50):
        took, floor = [], []
        for _ in range(bench.rounds(7)):
            floor += run_floor("many", 1024, count, memory)
            took.append(start_clones(bench, path, count))
        bench.add(f"{count} clones at once, with process start: last one's first byte", "ms", [t / 1e3 for t in took],
                  [f / 1e3 for f in floor], lambda row: row["ratio"] <= 3, "<= 3x floor")


def start_clones(bench, path, count):
    begin = time.perf_counter()
    daemons = []
    try:
        for _ in range(count):
            daemons.append(Daemon(bench.folder, "--restore", f"source_url=file://{path},resume=true"))
        for daemon in daemons:
            wait_readable(daemon.serial, "a clone")
        return (time.perf_counter() - begin) * 1e6
    finally:
        for daemon in daemons:
            daemon.kill()


def copy_snapshots(bench, mib, touched, rounds):
    """(time of each, vm.info's times meanwhile, floors), all in ms."""
    took, floor, info = [], [], []
    with bench.source(mib, f"mib={touched} {IDLE}") as daemon:
        watcher = Connection(daemon.path)
        daemon.connection.call("PUT", "vm.pause")
        for i in range(rounds):
            target = bench.at(f"floor-{i}")
            floor += [f / 1e3 for f in run_floor("write", touched, target)]
            os.unlink(target)
            target = bench.at(f"copy-{mib}-{i}")
            info += timed_snapshot(daemon, watcher, target, took)
            shutil.rmtree(target)
        watcher.close()
    return took, info, floor


def timed_snapshot(daemon, watcher, target, took):
    """vm.info every millisecond while the snapshot runs."""
    info = []
    poller = select.poll()
    poller.register(daemon.connection.socket, select.POLLIN)
    begin = time.perf_counter()
    daemon.connection.socket.sendall(Connection.request("PUT", "vm.snapshot", {"destination_url": f"file://{target}",
                                                                              "mode": "copy"}))
    while not poller.poll(1):
        info.append(watcher.time_call("GET", "vm.info") / 1e3)
    took.append((time.perf_counter() - begin) * 1e3)
    daemon.connection.answer()
    return info


def snapshots(bench):
    """Copying RAM out, against writing and syncing as many bytes; and vm.info meanwhile."""
    for mib, touched in ((1024, 64), (4096, 512)):
        took, _, floor = copy_snapshots(bench, mib, touched, bench.rounds(8))
        bench.add(f"snapshot (copy) of {mib // 1024} GiB, {touched} MiB touched", "ms", took, floor,
                  lambda row: row["ratio"] <= 1.15, "<= 1.15x write+fsync")
    with time_sharing():
        _, info, _ = copy_snapshots(bench, 4096, 512, bench.rounds(5))
    bench.add("vm.info while that snapshot runs", "ms", info, None, lambda row: row["p99"] <= 1, "p99 <= 1 ms", tail=True)


def link(bench):
    """How long the guest stands still for a link snapshot, by the daemon's own events."""
    stopped, floor = [], []
    for i in range(bench.rounds(5)):
        target = bench.at(f"floor-link-{i}")
        floor += run_floor("write", 512, target)
        os.unlink(target)
        ram = bench.at(f"ram-{i}")
        with bench.source(4096, f"mib=512 {IDLE}", {"file": ram}) as daemon:
            daemon.connection.call("PUT", "vm.snapshot", {
                "destination_url": f"file://{bench.at(f'link-{i}')}", "mode": "link", "pause": True, "resume": True})
            stopped.append(time_stopped(daemon))
        os.unlink(ram)
    bench.add("link snapshot of 4 GiB, 512 MiB just written: VM stopped", "ms", stopped, [f / 1e3 for f in floor],
              lambda row: row["median"] <= 5 + row["floor"], "<= 5 ms + write+fsync")


def time_stopped(daemon):
    stream = Connection(daemon.path)
    stream.socket.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\nLast-Event-ID: 1152921504606846976\r\n\r\n")
    data, times = b"", {}
    while "resumed" not in times:
        data += stream.socket.recv(65536)
        for line in data.split(b"\n")[:-1]:
            if b"{" not in line:
                continue
            event = json.loads(line[line.index(b"{"):])
            at = event["timestamp"]["secs"] * 1e3 + event["timestamp"]["nanos"] / 1e6
            times[event["event"]] = at
    stream.close()
    return times["resumed"] - times["pausing"]


def look(bench):
    """Checking a snapshot, whatever its size, and verifying all of its bytes."""
    for mib, name in ((256, "256 MiB"), (8192, "8 GiB")):
        path = bench.snapshot(f"spin-{mib}", mib, f"mib=16 {SPINNING}")
        bench.add(f"check of a snapshot, {name}", "ms", [t / 1e3 for t in format_times("check", path, 200)], None,
                  lambda row: row["median"] <= 1, "<= 1 ms", tail=True)
    # Nearly without holes: those cost cat time and the library none.
    path = bench.snapshot("full-512", 512, f"mib=512 {IDLE}")
    memory = os.path.join(path, "memory.bin")
    verify, cat = [], []
    for _ in range(bench.rounds(5)):
        begin = time.perf_counter()
        subprocess.run(["cat", memory], stdout=subprocess.DEVNULL, check=True)
        cat.append((time.perf_counter() - begin) * 1e3)
        verify += [t / 1e3 for t in format_times("verify", path, 1)]
    bench.add("verify of 512 MiB without holes, from page cache; floor: cat", "ms", verify, cat,
              lambda row: row["ratio"] <= 1 / 0.8, "<= 1.25x cat")


def format_times(what, path, rounds):
    done = subprocess.run([FORMAT, what, path, str(rounds)], capture_output=True, text=True)
    if done.returncode != 0:
        raise BenchError(f"bench-format {what}: {done.stderr.strip()}")
    return [float(line) for line in done.stdout.split()]


ALL = {"start": start, "boot": boot, "requests": requests, "restore": restore, "devices": devices,
       "clone-memory": clone_memory, "clones": clones, "snapshots": snapshots, "link": link, "look": look}
