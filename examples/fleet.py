#!/usr/bin/env python3
"""A fleet from one snapshot, without anything but Python: N vmmd processes restored at once from the same directory.

    examples/fleet.py SNAPSHOT_DIRECTORY [-n N] [--send LINE] [--pin]

Each VM gets its own API socket and its own serial socket; with --pin its first vCPU gets a CPU of the host. This is
what a service manager would do: it makes the sockets, passes each to its daemon already listening, and so has nothing
to wait for. A connection made before vmmd is ready is answered as soon as it is.
"""
import argparse
import concurrent.futures
import http.client
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

BUILD = pathlib.Path(__file__).resolve().parent.parent / "build"
VMMD = os.environ.get("VMMD", str(BUILD / "daemon" / "vmmd"))
TIMEOUT = 60  # seconds; nothing here takes long unless something is wrong


def connect(path):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(TIMEOUT)
    client.connect(str(path))
    return client


class Vm:
    def __init__(self, folder, number):
        self.number = number
        self.api = folder / f"{number}.sock"
        self.serial = folder / f"{number}.serial"
        self.log = folder / f"{number}.log"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, self.log.open("wb") as log:
            listener.bind(str(self.api))
            listener.listen()
            self.process = subprocess.Popen([VMMD, "--api-socket", f"fd={listener.fileno()}"],
                                            pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, stderr=log)

    def request(self, verb, endpoint, body=None):
        """The answer as Python data. Errors are a list of messages, the outermost first."""
        connection = http.client.HTTPConnection("localhost", timeout=TIMEOUT)
        connection.sock = connect(self.api)
        try:
            connection.request(verb, f"/api/v1/{endpoint}", body and json.dumps(body))
            answer = connection.getresponse()
            data = json.loads(answer.read() or "null")
        finally:
            connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"VM {self.number}: " + ": ".join(data))
        return data

    def restore(self, snapshot, pin):
        """Milliseconds from the request until the VM runs."""
        overrides = {"serial": {"mode": "Socket", "socket": str(self.serial)}}
        if pin:
            cpus = sorted(os.sched_getaffinity(0))
            overrides["cpus"] = {"affinity": [{"vcpu": 0, "host_cpus": [cpus[self.number % len(cpus)]]}]}
        start = time.monotonic()
        self.request("PUT", "vm.restore", {"source_url": f"file://{snapshot}", "resume": True, "overrides": overrides})
        return (time.monotonic() - start) * 1000

    def talk(self, line):
        """Sends a line to the guest; returns the first line from it (with a line sent: the first that has it)."""
        with connect(self.serial) as serial, serial.makefile("rwb") as stream:
            if line:
                stream.write(line.encode() + b"\n")
                stream.flush()
            for answer in stream:
                text = answer.decode(errors="replace").strip()
                if text and (not line or line in text):
                    return text
        raise RuntimeError(f"VM {self.number} closed its serial port")

    def stop(self):
        """The exit code: 0 for an orderly end."""
        self.process.terminate()
        return self.process.wait(TIMEOUT)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("snapshot", type=pathlib.Path)
    parser.add_argument("-n", type=int, default=8, help="number of VMs (8)")
    parser.add_argument("--send", metavar="LINE", help="send this to each guest's serial port, and wait for it to come back")
    parser.add_argument("--pin", action="store_true", help="give each VM's first vCPU one CPU of the host")
    options = parser.parse_args()
    snapshot = options.snapshot.resolve()

    fleet = []
    with tempfile.TemporaryDirectory(prefix="fleet.") as folder, \
            concurrent.futures.ThreadPoolExecutor(max_workers=options.n) as pool:
        try:
            for number in range(options.n):
                fleet.append(Vm(pathlib.Path(folder), number))
            times = list(pool.map(lambda vm: vm.restore(snapshot, options.pin), fleet))
            for vm, said in zip(fleet, pool.map(lambda vm: vm.talk(options.send and f"{options.send} {vm.number}"), fleet)):
                print(f"VM {vm.number} (process {vm.process.pid}) says: {said}")
            print(f"{len(fleet)} VMs restored from {snapshot}, the slowest in {max(times):.1f} ms")
        except (OSError, RuntimeError) as error:
            print(f"fleet: {error}", file=sys.stderr)
            return 1
        finally:
            codes = list(pool.map(Vm.stop, fleet))
    if any(codes):
        print(f"fleet: exit codes {codes}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
