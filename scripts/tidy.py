#!/usr/bin/python3
"""clang-tidy-19 over our own sources, in parallel; a file that passed is not looked at again until it, a header it
includes, .clang-tidy or its flags change (digests in build/tidy-cache)."""
import concurrent.futures
import hashlib
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
FOLDERS = ("base/", "devices/", "api/", "daemon/", "remote/")


def includes():
    """Object file -> headers of ours, as the last compilation recorded them."""
    text = subprocess.run(["ninja", "-C", str(BUILD), "-t", "deps"], check=True, capture_output=True, text=True).stdout
    found, current = {}, None
    for line in text.splitlines():
        if line.startswith("    ") and current is not None:
            path = (BUILD / line.strip()).resolve()
            if ROOT in path.parents:
                current.append(path)
        elif ": #deps" in line:
            current = found.setdefault(line.split(": #deps")[0], [])
    return found


def digest(entry, headers):
    seen = hashlib.sha256()
    seen.update((ROOT / ".clang-tidy").read_bytes())
    seen.update(entry["command"].encode())
    for path in sorted({(BUILD / entry["file"]).resolve(), *headers}):
        seen.update(str(path.relative_to(ROOT)).encode())
        seen.update(path.read_bytes())
    return seen.hexdigest()


def tidy(path):
    # GCC's own warning names are in the flags.
    return subprocess.run(
        ["clang-tidy-19", "--quiet", "-p", str(BUILD), "--extra-arg=-Wno-unknown-warning-option", str(path)],
        capture_output=True, text=True, cwd=ROOT)


def main():
    cache = BUILD / "tidy-cache"
    cache.mkdir(exist_ok=True)
    headers = includes()
    work = []
    for entry in json.loads((BUILD / "compile_commands.json").read_text()):
        path = (BUILD / entry["file"]).resolve()
        if not path.is_relative_to(ROOT) or path.is_relative_to(BUILD):
            continue
        if str(path.relative_to(ROOT)).startswith(FOLDERS):
            mark = cache / digest(entry, headers.get(entry["output"], []))
            work.append((path, mark))
    todo = sorted({path: mark for path, mark in work if not mark.exists()}.items())
    print(f"{len(work)} files, {len(todo)} to look at", flush=True)
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for (path, mark), result in zip(todo, pool.map(tidy, [path for path, _ in todo])):
            if result.returncode == 0:
                mark.touch()
                continue
            failed += 1
            print(result.stdout or result.stderr, flush=True)
    print(f"{len(work) - failed} clean, {failed} not")
    return 1 if failed or not work else 0


if __name__ == "__main__":
    sys.exit(main())
