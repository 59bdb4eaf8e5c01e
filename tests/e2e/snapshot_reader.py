#!/usr/bin/python3
"""An independent reader of snapshot directories, written from docs/snapshot-format.md alone.

It has its own parser of protobuf's wire format and shares nothing with vmmd, so that a mistake in the document or in
vmmd shows. As a script: `snapshot_reader.py [--verify] DIR...`, exit 1 if any is not a snapshot. As a module: check().
Needs python3-xxhash.
"""

import argparse
import dataclasses
import os
import re
import stat
import sys

import xxhash

MIB = 1024 * 1024
CHUNK = 2 * MIB
LIMITS = {"manifest.bin": 4 * MIB, "state.bin": 64 * MIB, "config.json": MIB, "memory.bin": 1 << 46,
          "memory.digests": (1 << 46) // CHUNK * 16}
TRAILER = bytes.fromhex("FAFFFFFF0F10")
ZERO_CHUNK = bytes.fromhex("7b3e6abe1456fd0094e26d8e04364852")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Malformed(Exception):
    """Bytes that are no protobuf message of the expected shape."""


def digest(data):
    return xxhash.xxh3_128(data).digest()


# ---- protobuf's wire format -------------------------------------------------------------------

def varint(data, at):
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(data):
            raise Malformed("a varint is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
    raise Malformed("a varint has no end")


def fields(data, limit=1 << 20):
    """{tag: [values]}: integers for varints and fixed, bytes for what has a length."""
    found, at, count = {}, 0, 0
    while at < len(data):
        key, at = varint(data, at)
        count += 1
        if count > limit:
            raise Malformed(f"more than {limit} fields")
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = int.from_bytes(data[at:at + size], "little"), at + size
        elif kind == 2:
            size, at = varint(data, at)
            value, at = data[at:at + size], at + size
        else:
            raise Malformed(f"wire type {kind}")
        if at > len(data):
            raise Malformed("a field is cut off")
        found.setdefault(key >> 3, []).append(value)
    return found


class Message:
    """Fields of a message by tag, with proto3's defaults."""

    def __init__(self, data, limit=1 << 20):
        self.fields = fields(data, limit)

    def has(self, tag):
        return tag in self.fields

    def number(self, tag):
        value = self.fields.get(tag, [0])[-1]
        if not isinstance(value, int):
            raise Malformed(f"field {tag} is no number")
        return value

    def signed(self, tag):
        value = self.number(tag)
        return value - (1 << 64) if value >> 63 else value

    def raw(self, tag):
        value = self.fields.get(tag, [b""])[-1]
        if not isinstance(value, bytes):
            raise Malformed(f"field {tag} has no length")
        return value

    def text(self, tag):
        try:
            return self.raw(tag).decode("utf-8")
        except UnicodeDecodeError as error:
            raise Malformed(f"field {tag} is not UTF-8") from error

    def messages(self, tag):
        values = self.fields.get(tag, [])
        if not all(isinstance(value, bytes) for value in values):
            raise Malformed(f"field {tag} is no message")
        return [Message(value) for value in values]

    def texts(self, tag):
        return [value.decode("utf-8", "replace") for value in self.fields.get(tag, [])]


# ---- what was found ---------------------------------------------------------------------------

@dataclasses.dataclass
class Snapshot:
    path: str
    problems: list = dataclasses.field(default_factory=list)
    manifest: Message = None
    files: dict = dataclasses.field(default_factory=dict)   # name -> (length, digest)
    layout: list = dataclasses.field(default_factory=list)  # (guest address, length, file offset)
    units: list = dataclasses.field(default_factory=list)   # (name, version, type_url, value)
    labels: dict = dataclasses.field(default_factory=dict)
    config: str = ""
    damaged: list = dataclasses.field(default_factory=list)  # chunks of memory.bin, after verify

    @property
    def ok(self):
        return not self.problems and not self.damaged

    @property
    def id(self):
        return self.manifest.text(100) if self.manifest else ""

    @property
    def memory_size(self):
        return self.manifest.number(4) if self.manifest else 0

    @property
    def vcpus(self):
        return self.manifest.number(5) if self.manifest else 0

    @property
    def unit_names(self):
        return [unit[0] for unit in self.units]


def is_name(text):
    return 0 < len(text.encode()) <= 255 and not any(ord(c) < 0x20 or ord(c) == 0x7F for c in text)


class Reader:
    def __init__(self, path):
        self.found = Snapshot(path)
        self.directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def close(self):
        os.close(self.directory)

    def problem(self, text):
        self.found.problems.append(text)

    def expect(self, condition, text):
        if not condition:
            self.problem(text)
        return condition

    def open(self, name):
        """A descriptor of a regular file, or None and a problem."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self.directory)
        except OSError as error:
            self.problem(f"{name}: {error.strerror}")
            return None
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            self.problem(f"{name} is no regular file")
        elif info.st_size > LIMITS[name]:
            self.problem(f"{name} is larger than {LIMITS[name]}")
        elif name != "manifest.bin" and name in self.found.files and info.st_size != self.found.files[name][0]:
            self.problem(f"{name} has {info.st_size} bytes, listed are {self.found.files[name][0]}")
        else:
            return fd
        os.close(fd)
        return None

    def read(self, name):
        fd = self.open(name)
        if fd is None:
            return None
        with open(fd, "rb") as file:
            data = file.read()
        if name in self.found.files and digest(data) != self.found.files[name][1]:
            self.problem(f"{name} does not have its digest")
            return None
        return data

    # Section 3: the manifest's own digest comes before everything else.
    def manifest(self):
        data = self.read("manifest.bin")
        if data is None:
            return False
        body, trailer, own = data[:-22], data[-22:-16], data[-16:]
        if len(data) < 22 or trailer != TRAILER or digest(body) != own:
            self.problem("manifest.bin does not have its digest")
            return False
        manifest = Message(body, 32768)
        if manifest.number(1) != 1:
            self.problem(f"version {manifest.number(1)}")
            return False
        self.found.manifest = manifest
        before = len(self.found.problems)
        for feature in manifest.texts(115):
            self.problem(f"unknown feature {feature!r}")
        self.machine(manifest)
        self.layout(manifest)
        self.listed_files(manifest)
        self.lists(manifest)
        return len(self.found.problems) == before

    def time(self, what, message):
        self.expect(0 <= message.signed(1) <= 253402300799 and 0 <= message.signed(2) <= 999999999, f"{what} is no time")

    def machine(self, manifest):
        size = manifest.number(4)
        self.expect(4096 <= size <= 1 << 46 and size % 4096 == 0, f"memory_size_bytes {size}")
        self.expect(1 <= manifest.number(5) <= 4096, f"vp_count {manifest.number(5)}")
        self.expect(manifest.number(6) == 4096, f"page_size {manifest.number(6)}")
        self.expect(manifest.text(7) == "x86_64", f"architecture {manifest.text(7)!r}")
        self.expect(UUID.fullmatch(manifest.text(100)), "snapshot_id is no UUID")
        self.expect(manifest.number(102) == 1, f"kind {manifest.number(102)}")
        self.expect(not manifest.raw(101), "a full snapshot has a parent_id")
        self.expect(not manifest.has(113), "consumed by a shared restore")
        self.time("created_at", Message(manifest.raw(2)))
        for tag in (3, 110, 111):
            self.expect(len(manifest.raw(tag)) <= 4096, f"field {tag} is too long")
        cpu = Message(manifest.raw(105))
        self.expect(len(cpu.messages(6)) <= 4096, "too many CPUID leaves")
        cpu.text(1), cpu.text(5)

    def layout(self, manifest):
        self.expect(len(manifest.messages(104)) <= 1024, "too many ranges of memory")
        address = offset = 0
        for message in manifest.messages(104):
            start, length, at = (message.number(tag) for tag in (1, 2, 3))
            good = length > 0 and start % 4096 == length % 4096 == 0 and start + length <= 1 << 52
            self.expect(good and start >= address and at == offset, f"memory range {start:#x} + {length:#x} at {at:#x}")
            self.found.layout.append((start, length, at))
            address, offset = start + length, offset + length
        self.expect(offset == manifest.number(4), "memory ranges do not add up")

    def listed_files(self, manifest):
        messages = manifest.messages(106)
        self.expect(len(messages) <= 64, "too many files")
        for message in messages:
            name, length, own = message.text(1), message.number(2), message.raw(3)
            self.expect(is_name(name) and "/" not in name and name not in (".", ".."), f"file name {name!r}")
            self.expect(name not in self.found.files, f"{name} is listed twice")
            if name in LIMITS:
                self.expect(length <= LIMITS[name], f"{name} is listed with {length} bytes")
                self.expect(len(own) == (0 if name == "memory.bin" else 16), f"{name} has a digest of {len(own)} bytes")
            self.found.files[name] = (length, own)
        for name in ("state.bin", "config.json", "memory.bin"):
            self.expect(name in self.found.files, f"{name} is not listed")
        size = manifest.number(4)
        self.expect(self.found.files.get("memory.bin", (size,))[0] == size, "memory.bin is listed with another length")
        has_digests = "memory.digests" in self.found.files
        self.expect(manifest.number(107) == (CHUNK if has_digests else 0), "memory_chunk_size does not fit")
        if has_digests:
            self.expect(self.found.files["memory.digests"][0] == -(-size // CHUNK) * 16, "memory.digests does not fit")
        own = self.found.files.get("config.json", (0, b""))[1]
        self.expect(digest(manifest.raw(116)) == own, "field 116 is not the listed config.json")

    def lists(self, manifest):
        for what, tag, limit in (("disk", 108, 4096), ("unit", 109, 16384)):
            names = [message.text(1) for message in manifest.messages(tag)]
            self.expect(len(names) <= limit, f"too many {what}s")
            self.expect(len(set(names)) == len(names), f"a {what} is listed twice")
            self.expect(all(map(is_name, names)), f"a {what} has no proper name")
        for message in manifest.messages(112):
            key, value = message.text(1), message.text(2)
            self.expect(is_name(key) and len(key.encode()) <= 128 and len(value.encode()) <= 4096, f"label {key!r}")
            self.found.labels[key] = value
        self.expect(len(self.found.labels) <= 64, "too many labels")

    # Section 6.
    def state(self):
        data = self.read("state.bin")
        if data is None:
            return
        for message in Message(data, 16384).messages(1):
            state = Message(message.raw(2))
            self.found.units.append((message.text(1), message.number(3), state.text(1), state.raw(2)))
            self.expect(state.text(1), f"unit {message.text(1)!r} has no state")
        names = self.found.unit_names
        self.expect(len(set(names)) == len(names), "state.bin has a unit twice")
        listed = [(message.text(1), message.number(2)) for message in self.found.manifest.messages(109)]
        self.expect([unit[:2] for unit in self.found.units] == listed, "the units are not those of the manifest")

    # Section 4.
    def memory(self, verify):
        fd = self.open("memory.bin")
        table = None
        if "memory.digests" in self.found.files:
            if verify:
                table = self.read("memory.digests")
            elif (digests := self.open("memory.digests")) is not None:
                os.close(digests)
        if fd is None:
            return
        try:
            own = os.getxattr(fd, "user.vmmd.snapshot_id").decode()
            self.expect(own == self.found.id, f"memory.bin belongs to snapshot {own}")
        except OSError:
            pass
        if table is not None:
            self.verify(fd, table)
        os.close(fd)

    # Section 5.
    def verify(self, fd, table):
        size = self.found.memory_size
        for index, start in enumerate(range(0, size, CHUNK)):
            length = min(CHUNK, size - start)
            try:
                hole = os.lseek(fd, start, os.SEEK_DATA) >= start + length
            except OSError:
                hole = True  # no data up to the end
            if hole and length == CHUNK:
                actual = ZERO_CHUNK
            else:
                actual = digest(bytes(length) if hole else os.pread(fd, length, start))
            if actual != table[index * 16:index * 16 + 16]:
                self.found.damaged.append(index)


def check(path, verify=False):
    """Checks one directory against the document. `verify` reads memory.bin too."""
    reader = Reader(os.fspath(path))
    try:
        if reader.manifest():
            reader.state()
            config = reader.read("config.json")
            reader.found.config = config.decode("utf-8") if config is not None else ""
            reader.memory(verify)
    except (Malformed, UnicodeDecodeError) as error:
        reader.problem(str(error))
    finally:
        reader.close()
    return reader.found


def main():
    parser = argparse.ArgumentParser(description="Check snapshot directories against docs/snapshot-format.md")
    parser.add_argument("--verify", action="store_true", help="read memory.bin too and compare its digests")
    parser.add_argument("directory", nargs="+")
    arguments = parser.parse_args()
    bad = 0
    for path in arguments.directory:
        try:
            found = check(path, arguments.verify)
        except OSError as error:
            print(f"{path}: {error.strerror}", file=sys.stderr)
            bad = 1
            continue
        for problem in found.problems:
            print(f"{path}: {problem}", file=sys.stderr)
        for chunk in found.damaged:
            print(f"{path}: memory.bin is damaged in the 2 MiB from {chunk * CHUNK:#x}", file=sys.stderr)
        if found.ok:
            print(f"{path}: {found.id}, {found.memory_size // MIB} MiB, {found.vcpus} vCPUs, {len(found.units)} units")
        bad |= not found.ok
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
