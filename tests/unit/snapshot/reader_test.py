#!/usr/bin/python3
"""Holds docs/snapshot-format.md: the reader written from it agrees with what vmmd's library writes.

Usage: reader_test.py SNAPSHOT_SAMPLE (the program that writes one).
"""

import pathlib
import subprocess
import sys
import tempfile
import unittest

try:
    import xxhash  # noqa: F401  (python3-xxhash)
except ImportError:
    sys.exit(77)  # meson: skipped

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "e2e"))
import snapshot_reader  # noqa: E402

SAMPLE = sys.argv.pop(1)


class ReaderTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name) / "one"

    def write(self, kind="plain"):
        subprocess.run([SAMPLE, kind, str(self.path)], check=True)

    def flip(self, name, at):
        with open(self.path / name, "r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 0xFF]))

    def test_a_snapshot_follows_the_document(self):
        self.write()
        found = snapshot_reader.check(self.path, verify=True)
        self.assertEqual(found.problems, [])
        self.assertEqual(found.damaged, [])
        self.assertEqual(found.memory_size, 5 << 20)
        self.assertEqual(found.vcpus, 2)
        self.assertEqual(found.unit_names, ["vm", "vcpu0", "vcpu1", "serial0"])
        self.assertEqual(found.labels, {"owner": "ci"})
        self.assertEqual(found.layout, [(0, 3 << 20, 0), (1 << 32, 2 << 20, 3 << 20)])

    def test_a_snapshot_without_digests_follows_it_too(self):
        self.write("linked")
        self.assertEqual(snapshot_reader.check(self.path, verify=True).problems, [])

    def test_every_flipped_byte_is_refused(self):
        self.write()
        for name in ("manifest.bin", "state.bin", "config.json"):
            for at in range((self.path / name).stat().st_size):
                self.flip(name, at)
                self.assertTrue(snapshot_reader.check(self.path).problems, f"{name} at {at}")
                self.flip(name, at)
        self.assertEqual(snapshot_reader.check(self.path).problems, [])

    def test_damaged_memory_is_found_in_its_chunk(self):
        self.write()
        self.flip("memory.bin", (4 << 20) + 17)
        self.assertEqual(snapshot_reader.check(self.path, verify=True).damaged, [2])


if __name__ == "__main__":
    unittest.main()
