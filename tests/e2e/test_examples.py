"""The scripts of examples/, run as their users run them: a fleet of eight from one snapshot."""
import hashlib
import os
import pathlib
import re
import subprocess

import pytest

import vmmd
from vmmd import bare

FLEET = 8
EXAMPLES = vmmd.ROOT / "examples"


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in pathlib.Path(folder).iterdir()}


@pytest.fixture
def snapshot(start, tmp_path):
    """Of a guest that counts; what the directory holds must be the same at the end."""
    first = start(name="first")
    first.boot(bare("tick")).expect(r"^tick 5$")
    first.put("vm.pause")
    first.snapshot(tmp_path / "snap")
    first.kill()
    before = digests(tmp_path / "snap")
    yield tmp_path / "snap"
    assert digests(tmp_path / "snap") == before


def run(*command):
    environment = {**os.environ, "VMMD": str(vmmd.VMMD), "VMM_REMOTE": str(vmmd.REMOTE)}
    return subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=2 * vmmd.PATIENCE)


def test_fleet_sh_runs_eight_clones(snapshot):
    done = run(EXAMPLES / "fleet.sh", snapshot, FLEET)
    assert done.returncode == 0, done.stderr
    # A line that was being sent when the snapshot was taken goes on in its middle.
    said = re.findall(r"^VM (\d+) \(process (\d+)\) says: \S+", done.stdout, re.MULTILINE)
    assert [number for number, _ in said] == [str(n + 1) for n in range(FLEET)], done.stdout
    assert len({process for _, process in said}) == FLEET


def test_fleet_py_talks_to_eight_clones(snapshot):
    done = run("/usr/bin/python3", EXAMPLES / "fleet.py", snapshot, "-n", FLEET, "--send", "hello", "--pin")
    assert done.returncode == 0, done.stderr
    said = re.findall(r"^VM (\d+) \(process \d+\) says: echo hello (\d+)$", done.stdout, re.MULTILINE)
    assert said == [(str(n), str(n)) for n in range(FLEET)], done.stdout


@pytest.mark.parametrize("script", ["fleet.sh", "fleet.py"])
def test_a_fleet_without_a_snapshot_says_what_is_wrong_and_leaves_no_process(script, tmp_path):
    done = run(EXAMPLES / script, tmp_path / "nothing", *(["-n", "2"] if script == "fleet.py" else ["2"]))
    assert done.returncode == 1
    assert "there is no snapshot at" in done.stderr, done.stderr
