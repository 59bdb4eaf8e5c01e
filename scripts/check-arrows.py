#!/usr/bin/python3
"""Holds the folders' include arrows (CONTRIBUTING.md): who may include whom.

Every quoted include names a path from the repository's root. A folder may include itself and what its row names.
"""
import pathlib
import re
import subprocess
import sys

# The longest matching folder decides. "daemon" in a list means the whole of daemon/.
ARROWS = {
    "base": [],
    "proto": [],
    "devices": ["base", "proto"],
    "api": ["base"],
    "daemon/snapshot/format": ["base", "proto"],
    "daemon/snapshot/cpu": ["base", "proto", "daemon/snapshot/format"],
    "daemon/snapshot/restorable": ["base", "proto", "api", "devices", "daemon/memory", "daemon/snapshot/format",
                                   "daemon/snapshot/cpu"],
    "daemon": ["base", "devices", "api", "proto"],
    "remote": ["base", "api", "proto", "daemon/snapshot/format", "daemon/snapshot/restorable"],
    "tests": ["base", "devices", "api", "proto", "daemon", "remote"],
}
# System headers that only some may see: (pattern, who may, who of them may not, why).
PRIVATE = [
    (r"linux/kvm\.h", ["daemon", "tests", "base/compat"], ["daemon/snapshot/format"],
     "KVM is the daemon's, and not of the format library"),
    (r"nlohmann/json\.hpp|boost/beast.*", ["*.cpp", "*_test.cpp"], [],
     "Beast and JSON cost seconds of every includer"),
]
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')


def row_of(path):
    rows = [row for row in ARROWS if path == row or path.startswith(row + "/")]
    return max(rows, key=len, default=None)


def allowed(path, pattern):
    if pattern.startswith("*."):
        return path.endswith(pattern[1:])
    return path.startswith(pattern + "/")


def check(path, text):
    row = row_of(path)
    if row is None or path.startswith("tests/guest/"):  # freestanding programs of their own
        return
    may = [row, *ARROWS[row]]
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        ours, system = match.groups()
        if ours:
            target = row_of(ours)
            if target is None:
                yield f'{path}:{number}: "{ours}": includes are written from the repository\'s root'
            elif not any(ours.startswith(folder + "/") for folder in may):
                yield f"{path}:{number}: {row}/ may not include {ours} (it may: {', '.join(may)})"
        else:
            for pattern, who, but, why in PRIVATE:
                may_see = any(allowed(path, p) for p in who) and not any(allowed(path, p) for p in but)
                if re.fullmatch(pattern, system) and not may_see:
                    yield f"{path}:{number}: <{system}> is not for {path}: {why}"


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    files = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", "*.h", "*.cpp"],
        check=True, capture_output=True, text=True).stdout.split()
    files = [name for name in files if (root / name).exists()]
    errors = [error for name in files for error in check(name, (root / name).read_text())]
    print("\n".join(errors) if errors else f"{len(files)} files keep the arrows")
    return 1 if errors or not files else 0


if __name__ == "__main__":
    sys.exit(main())
