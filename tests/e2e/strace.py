"""strace on one thread of a running vmmd: what it calls, and faults in what it calls."""
import os
import re
import signal
import subprocess
import time

from vmmd import PATIENCE

CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)$")


def thread(pid, name, patience=10):
    """The id of the process's only thread of that name; threads name themselves a little after they are there."""
    deadline = time.monotonic() + patience
    while True:
        found = []
        for tid in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{tid}/comm", encoding="ascii") as comm:
                if comm.read().strip() == name:
                    found.append(int(tid))
        if len(found) == 1:
            return found[0]
        assert time.monotonic() < deadline, f"threads {name!r} of {pid}: {found}"
        time.sleep(0.001)


class Strace:
    """Attached to one thread (or, with `follow`, to all and those to come) until the end of the `with`.

    Occurrences in `when=` are counted per thread, from the moment of attaching.
    """

    def __init__(self, output, tid, *options, follow=False):
        self.output = output
        command = ["strace", "-o", str(output), "-a", "0", "-s", "256", *options]
        self.process = subprocess.Popen(command + (["-f"] if follow else []) + ["-p", str(tid)],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        line = self.process.stderr.readline()
        if "attached" not in line:
            self.process.kill()
            raise AssertionError(f"strace did not attach: {line!r}")
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(PATIENCE)
        self.process.stderr.close()

    def cut(self):
        """Ends it now: the kernel lets go what a delay still holds, for which a detaching strace would wait."""
        self.process.kill()
        self.process.wait(PATIENCE)

    @property
    def text(self):
        return self.output.read_text(errors="replace")

    def threads(self):
        """The ids in a trace that follows."""
        return sorted({int(line.split(" ", 1)[0]) for line in self.text.splitlines() if line.split(" ", 1)[0].isdigit()})

    def calls(self, only=None):
        """[(name, rest of the line)] in order of their start; the two halves of an interrupted line are joined.

        `only`: of the thread with that id, in a trace that follows.
        """
        found, open_calls = [], {}
        for line in self.text.splitlines():
            tid = line.split(" ", 1)[0]
            if only is not None and tid != str(only):
                continue
            resumed = re.match(r"^(?:\d+ +)?<\.\.\. (\w+) resumed>(.*)$", line)
            if resumed:
                at = open_calls.pop((tid if tid.isdigit() else "", resumed[1]), None)
                if at is not None:
                    found[at] = (found[at][0], found[at][1].replace(" <unfinished ...>", "") + resumed[2])
                continue
            call = CALL.match(line)
            if not call:
                continue
            if line.endswith("<unfinished ...>"):
                open_calls[(tid if tid.isdigit() else "", call[1])] = len(found)
            found.append((call[1], call[2]))
        return found
