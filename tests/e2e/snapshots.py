"""What snapshot directories are, judged twice: by vmmd's own library and by the independent reader."""
import os
import pathlib
import subprocess
import time

import snapshot_reader
from vmmd import BUILD, REMOTE

TOOLS = BUILD / "tests" / "tools"
COMPLETE = "complete"


def judge(folder):
    """"absent", "empty", "complete", "complete, memory not known", "torn: …" or "damaged: …"."""
    folder = pathlib.Path(folder)
    if folder.is_dir() and not any(folder.iterdir()):
        return "empty"
    said = subprocess.run([TOOLS / "snapshot-check", folder], capture_output=True, text=True, check=False).stdout.strip()
    if said != "absent":
        found = snapshot_reader.check(folder, verify=True)
        assert found.ok == said.startswith("complete"), f"vmmd says {said!r}, the other reader {found.problems} {found.damaged}"
    return said


def commands_agree(folder, said):
    """vmm-remote's check and verify say what judge() said. (check also asks whether this host can restore it.)"""
    for command, good in (("check", said.startswith(("complete", "damaged"))), ("verify", said == COMPLETE)):
        answer = subprocess.run([REMOTE, "snapshot", command, folder], capture_output=True, text=True, check=False)
        assert (answer.returncode == 0) == good, f"{said}, but {command}: {answer.stdout} {answer.stderr}"


def hidden(folder):
    """Names of hidden siblings of the snapshot `folder`."""
    folder = pathlib.Path(folder)
    return sorted(path.name for path in folder.parent.iterdir() if path.name.startswith(f".{folder.name}.vmmd-"))


def stamps(folder):
    """Changes whenever something writes to a file, or adds or removes one."""
    return {path.name: (info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)
            for path in pathlib.Path(folder).iterdir() for info in [path.stat()]}


def thread_name(pid, tid):
    """Empty if it is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/task/{tid}/comm").read_text(encoding="ascii").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def holdings(pid):
    """What a process holds: descriptors by what they are, threads by name, mappings of files and devices."""
    fds = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            fds.append(os.readlink(f"/proc/{pid}/fd/{fd}").split(":")[0])
        except FileNotFoundError:
            pass
    threads = []
    for tid in os.listdir(f"/proc/{pid}/task"):
        name = thread_name(pid, tid)
        if name and not name.startswith("kvm-"):  # the kernel's own, reaped when it likes
            threads.append(name)
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        files = [line.split(maxsplit=5)[5].strip() for line in maps if len(line.split(maxsplit=5)) == 6]
    return {"fds": sorted(fds), "threads": sorted(threads), "mappings": sorted(set(files) - {"[heap]", "[stack]"})}


def idle_holdings(pid, patience=10):
    """The same of a vmmd that waits for clients: its only socket is the one it listens on, and /dev/kvm is open."""
    deadline = time.monotonic() + patience
    while (now := holdings(pid))["fds"].count("socket") > 1 or "/dev/kvm" not in now["fds"]:
        assert time.monotonic() < deadline, f"not idle: {now}"
        time.sleep(0.002)
    return now


def settles(pid, expected, patience=10):
    """Waits until the process holds no more than `expected`: the kernel closes and reaps a little later than it answers."""
    deadline = time.monotonic() + patience
    while (now := holdings(pid)) != expected:
        assert time.monotonic() < deadline, f"held: {now}\nexpected: {expected}"
        time.sleep(0.002)
