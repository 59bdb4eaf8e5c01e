#!/usr/bin/python3
"""clang-tidy-19 over our own sources, in parallel. `--quick` leaves out the static analyzer, which takes two thirds of
the time: what CI does. A file that passed is not looked at again until it, a header it includes, its flags or
.clang-tidy change (digests in $XDG_CACHE_HOME/vmmd/tidy; --no-cache looks at all of them)."""
import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
FOLDERS = ("base/", "devices/", "api/", "daemon/", "remote/")
TIDY = "clang-tidy-19"
ANALYZER = "clang-analyzer-*"
KEEP_SECONDS = 60 * 24 * 3600


def includes():
    """Object file -> headers, as the last compilation recorded them."""
    text = subprocess.run(["ninja", "-C", str(BUILD), "-t", "deps"], check=True, capture_output=True, text=True).stdout
    found, current = {}, None
    for line in text.splitlines():
        if line.startswith("    ") and current is not None:
            current.append(BUILD / line.strip())
        elif ": #deps" in line:
            current = found.setdefault(line.split(": #deps")[0], [])
    return found


class Digests:
    """What a verdict depends on. Headers of others count by name, size and date."""

    def __init__(self, quick):
        version = subprocess.run([TIDY, "--version"], check=True, capture_output=True).stdout
        self.base = b"quick" * quick + version + (ROOT / ".clang-tidy").read_bytes()
        self.known = {}

    def of_file(self, path):
        if path not in self.known:
            real = path.resolve()
            if real.is_relative_to(ROOT):
                self.known[path] = str(real.relative_to(ROOT)).encode() + hashlib.sha256(real.read_bytes()).digest()
            else:
                status = real.stat()
                self.known[path] = f"{real} {status.st_size} {status.st_mtime_ns}".encode()
        return self.known[path]

    def of(self, entry, headers):
        seen = hashlib.sha256(self.base + entry["command"].replace(str(ROOT), ".").encode())
        for part in sorted({self.of_file(path) for path in [BUILD / entry["file"], *headers]}):
            seen.update(part)
        return seen.hexdigest()


def tidy(path, quick):
    # GCC's own warning names are in the flags.
    command = [TIDY, "--quiet", "-p", str(BUILD), "--extra-arg=-Wno-unknown-warning-option"]
    if quick:
        command.append(f"--checks=-{ANALYZER}")
    return subprocess.run([*command, str(path)], capture_output=True, text=True, cwd=ROOT)


def sources():
    """(source, compile command) of everything of ours that is built."""
    for entry in json.loads((BUILD / "compile_commands.json").read_text()):
        path = (BUILD / entry["file"]).resolve()
        if path.is_relative_to(ROOT) and str(path.relative_to(ROOT)).startswith(FOLDERS):
            yield path, entry


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-cache", action="store_true")
    parser.add_argument("paths", nargs="*", help="beginnings of the files' paths: only those")
    options = parser.parse_args()
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "vmmd" / "tidy"
    cache.mkdir(parents=True, exist_ok=True)
    headers = includes()
    digests = [Digests(True), Digests(False)] if options.quick else [Digests(False)]
    work, todo = 0, []
    for path, entry in sources():
        if options.paths and not str(path.relative_to(ROOT)).startswith(tuple(options.paths)):
            continue
        # The first is what this run can prove; a verdict of all checks is as good for the quick ones.
        marks = [cache / each.of(entry, headers.get(entry["output"], [])) for each in digests]
        passed = [mark for mark in marks if mark.exists()]
        for mark in passed:
            os.utime(mark)
        work += 1
        if options.no_cache or not passed:
            todo.append((path, marks[0]))
    left_out = f"; not the static analyzer's ({ANALYZER}): scripts/tidy.py does those" if options.quick else ""
    print(f"{work} files, {len(todo)} to look at{left_out}", flush=True)

    failed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = {pool.submit(tidy, path, options.quick): (path, mark) for path, mark in todo}
        for done in concurrent.futures.as_completed(runs):
            result, (path, mark) = done.result(), runs[done]
            if result.returncode == 0:
                mark.touch()
                continue
            failed += 1
            print(f"{path.relative_to(ROOT)}:\n{result.stdout or result.stderr}", flush=True)
    for old in cache.iterdir():
        if old.stat().st_mtime < time.time() - KEEP_SECONDS:
            old.unlink()
    print(f"{work - failed} clean, {failed} not")
    return 1 if failed or not work else 0


if __name__ == "__main__":
    sys.exit(main())
