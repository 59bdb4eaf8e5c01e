import pathlib
import shutil
import signal
import subprocess

import pytest

import linux as linux_guest
import vmmd

LINUX = vmmd.ROOT / "tests" / "guest" / "linux"


def pytest_configure(config):
    # A shell starts background jobs with SIGINT ignored, and what they start inherits that; tests send it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "guest: boots a bare-metal guest; run in the sanitizer build too")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows what its daemons logged and their guests said."""
    report = (yield).get_result()
    if not report.failed:
        return
    for daemon in getattr(item, "daemons", []):
        name = daemon.folder.name
        if daemon.log.exists():
            report.sections.append((f"{name}: vmmd.log", daemon.log.read_text(errors="replace")[-6000:]))
        for line in daemon.serials:
            report.sections.append((f"{name}: serial", line.text[-3000:]))


def pytest_terminal_summary(terminalreporter):
    """What failed and passed when repeated (--reruns, in CI) is shown as failures are: each has a cause to be found."""
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"FAILED AT FIRST: {report.nodeid}")
        terminalreporter.line(report.longreprtext)
        for title, text in report.sections:
            terminalreporter.section(title, sep="-")
            terminalreporter.line(text)


@pytest.fixture
def start(request, tmp_path):
    """start(*arguments, name=…, …) runs a vmmd; at the end each must go with exit code 0 unless the test ended it."""
    daemons = request.node.daemons = []

    def run(*arguments, name=None, **more):
        daemon = vmmd.Daemon(tmp_path / (name or f"vmmd{len(daemons)}"), *arguments, **more)
        daemons.append(daemon)
        return daemon

    yield run
    running = [daemon for daemon in daemons if daemon.process.poll() is None]
    codes = {daemon.folder.name: daemon.stop() for daemon in running}
    for daemon in daemons:
        daemon.stop()
        assert not daemon.serial_path.exists() or daemon not in running, f"{daemon.serial_path} was left behind"
    assert all(code == 0 for code in codes.values()), f"exit codes {codes}"


@pytest.fixture
def daemon(start):
    return start()


@pytest.fixture(scope="module")
def xfs(tmp_path_factory):
    """A filesystem with reflinks, in a loop file."""
    folder = tmp_path_factory.mktemp("xfs")
    image, mount = folder / "image", folder / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(1 << 30)
    if not shutil.which("mkfs.xfs"):
        pytest.skip("REFLINK NOT TESTED: no mkfs.xfs (apt-get install xfsprogs)")
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, mount], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"REFLINK NOT TESTED: cannot mount a loop file: {mounted.stderr.strip()}")
    yield mount
    subprocess.run(["umount", mount], check=True)


def run_script(name):
    """The last word that a script of the Linux guest prints."""
    return subprocess.run([LINUX / name], check=True, capture_output=True, text=True).stdout.split()[-1]


@pytest.fixture(scope="session", params=["source", "stock"])
def linux(request, tmp_path_factory):
    """The Linux guest built from Debian's source; and Debian's own kernel with the same agent, where that boots."""
    folder = pathlib.Path(run_script("build.sh"))
    guest = linux_guest.Linux(folder / "vmlinux", folder / "initramfs.cpio")
    if request.param == "source":
        return guest
    try:
        guest = linux_guest.Linux(pathlib.Path(run_script("stock-kernel.sh")), guest.initramfs, stock=True)
    except subprocess.CalledProcessError as error:
        pytest.skip(error.stderr.strip())
    if reason := guest.why_not(tmp_path_factory.mktemp("stock")):
        pytest.skip(reason)
    return guest


@pytest.fixture(scope="session")
def booted(linux, tmp_path_factory):
    """booted(cpus=…, memory=…): a snapshot of a Linux guest at its agent's prompt. Each kind is booted once."""
    made = {}

    def get(cpus=1, memory=128 << 20):
        key = (cpus, memory)
        if key not in made:
            made[key] = linux.boot_and_snapshot(tmp_path_factory.mktemp(f"linux-{cpus}-{memory >> 20}"), cpus, memory)
        return made[key]

    return get
