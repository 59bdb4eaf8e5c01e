"""vmm-remote's commands over the real daemon: what they print, what they say when it goes wrong, how they exit."""
import json
import pathlib
import signal
import subprocess
import time

import pytest

from remote import as_json, environment, fails, ok, remote, spawn
from vmmd import REMOTE, VMMD, bare

pytestmark = pytest.mark.guest

CHAIN = "Error: vmm-remote exited with the following chain of errors:\n"


def test_the_whole_way_is_quiet(daemon, tmp_path):
    config = tmp_path / "vm.json"
    config.write_text(json.dumps(daemon.config(bare("tick"))))
    for command in (["create", config], ["boot"], ["pause"], ["snapshot", f"file://{tmp_path}/one"], ["resume"],
                    ["nmi"], ["reboot"], ["shutdown"], ["delete"], ["delete"]):
        assert ok(daemon, *command) == "", command
    assert (tmp_path / "one" / "manifest.bin").exists()


def test_create_reads_standard_input(daemon):
    config = json.dumps(daemon.config(bare("idle")))
    assert ok(daemon, "create", stdin=config) == ""
    assert ok(daemon, "delete") == ""
    assert ok(daemon, "create", "-", stdin=config) == ""
    assert daemon.state() == "Created"


def test_answers_are_printed_as_they_are(daemon):
    daemon.create(bare("idle"))
    assert json.loads(ok(daemon, "ping"))["pid"] == daemon.process.pid
    assert json.loads(ok(daemon, "info")) == daemon.get("vm.info")
    assert ok(daemon, "info").count("\n") == 1
    assert json.loads(ok(daemon, "counters")) == daemon.get("vm.counters")


def test_errors_are_ch_remotes_chain(daemon):
    assert fails(daemon, "info") == CHAIN + "  0: vm.info failed\n  1: there is no VM; vm.create or vm.restore one first\n"
    text = fails(daemon, "create", stdin='{"payload":{"kernel":"/none"},"cpus":{"boot_vcpus":0}}')
    assert text.startswith(CHAIN + "  0: vm.create failed\n  1: /cpus/boot_vcpus")


def test_no_daemon_is_an_error_that_says_where_it_looked(tmp_path):
    assert f"no API socket at {tmp_path}/none" in fails(None, "--api-socket", tmp_path / "none", "ping")


def test_the_socket_comes_from_the_option_or_the_environment(daemon):
    assert ok(None, "ping", "--api-socket", daemon.api)
    assert ok(None, "--api-socket", daemon.api, "ping")
    assert ok(daemon, "ping")
    assert ok(None, "ping", VMMD_SOCKET=str(daemon.api))
    assert "VMMD_SOCKET" in fails(None, "ping", code=2)
    assert "no API socket at /none" in fails(daemon, "--api-socket", "/none", "ping")  # the option is stronger


@pytest.mark.parametrize("arguments", [
    [], ["pauze"], ["pause", "resume"], ["pause", "--now"], ["wait"], ["wait", "--state", "Sleeping"],
    ["wait", "--state", "Running", "--timeout", "soon"], ["wait", "--state", "Running", "--timeout", "-1"],
    ["events", "--since", "x"], ["snapshot"], ["snapshot", "somewhere"], ["snapshot", "lisst", "/tmp"],
    ["snapshot", "list"], ["snapshot", "list", "/tmp", "--pause"], ["snapshot", "list", "/tmp", "/tmp"],
    ["snapshot", "/x", "--mode", "fast"], ["restore"], ["cancel"], ["completion", "csh"], ["console", "--escape", "x"],
], ids=" ".join)
def test_wrong_usage_is_exit_2(daemon, arguments):
    text = fails(daemon, *arguments, code=2)
    assert text.startswith("vmm-remote") and "--help" in text
    answer = as_json(daemon, *arguments)
    assert answer["error"]["name"] == "Usage"


def test_a_misspelt_command_is_corrected(daemon):
    assert "did you mean pause?" in fails(daemon, "pauze", code=2)
    assert "did you mean `snapshot list`?" in fails(daemon, "snapshot", "lisst", "/tmp", code=2)


def test_help_of_every_command_has_an_example():
    text = ok(None, "--help")
    commands = [line.split()[0] for line in text.split("Subcommands:\n")[1].splitlines() if line.startswith("  ")]
    listed = commands[:commands.index("export")] if "export" in commands else commands
    assert {"ping", "snapshot", "restore", "wait", "add-disk"} <= set(listed)
    for command in ("ping", "create", "snapshot", "restore", "wait", "events", "console", "shell", "resize"):
        assert f"vmm-remote {command}" in ok(None, command, "--help").split("Example:")[1]
    assert "vmm-remote snapshot verify" in ok(None, "snapshot", "verify", "--help")


def test_version():
    assert ok(None, "--version").startswith("vmmd v")


@pytest.mark.parametrize("command", [["add-disk", "path=/disk.img"], ["resize", "--cpus", "4"], ["resize-zone"],
                                     ["send-migration", "unix:/x"], ["coredump", "file:///x"], ["remove-device", "_d"]],
                         ids=lambda words: words[0])
def test_what_is_not_built_says_so(daemon, command):
    text = fails(daemon, *command)
    assert text.startswith(CHAIN) and "not built yet" in text


def test_json_is_one_object_for_success_and_error(daemon):
    assert as_json(daemon, "ping")["result"]["pid"] == daemon.process.pid
    daemon.create(bare("idle"))
    assert as_json(daemon, "boot") == {"ok": True, "command": "boot", "result": None}
    error = as_json(daemon, "resume")["error"]
    assert (error["code"], error["name"]) == (405, "WrongState")
    assert error["messages"][0] == "vm.resume failed"


def test_a_full_disk_for_the_output_is_an_error(daemon):
    with open("/dev/full", "w") as full:
        run = subprocess.run([REMOTE, "ping"], env=environment(daemon), stdout=full, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 1
    assert "No space left on device" in run.stderr


def test_snapshot_with_options_of_ours_says_what_it_did(daemon, tmp_path):
    daemon.boot(bare("tick"))
    answer = json.loads(ok(daemon, "snapshot", "--pause", "--resume", "--mode", "copy", "--label", "app=web", "--label",
                           "a=b=c", tmp_path / "one"))
    assert answer["mode"] == "copy"
    assert daemon.state() == "Running"
    listed = as_json(None, "snapshot", "list", tmp_path)["result"]
    assert [snapshot["labels"] for snapshot in listed if snapshot["name"] == "one"] == [{"app": "web", "a": "b=c"}]


def test_restore_in_all_its_forms(daemon, tmp_path):
    daemon.boot(bare("tick"))
    ok(daemon, "snapshot", "--pause", tmp_path / "one")
    serial = tmp_path / "clone.serial"
    overrides = json.dumps({"serial": {"mode": "File", "file": str(serial)}})
    file = tmp_path / "overrides.json"
    file.write_text(overrides)
    source = f"file://{tmp_path}/one"
    for arguments in ([f"source_url={source},resume=true", "--overrides", overrides],
                      [source + ",resume=on", "--overrides", file],
                      [f"{tmp_path}/one,memory_restore_mode=copy,resume=on", "--overrides", file]):
        ok(daemon, "delete")
        assert ok(daemon, "restore", *arguments) == ""
        info = daemon.get("vm.info")
        assert info["state"] == "Running"
        assert info["config"]["serial"]["file"] == str(serial)
    ok(daemon, "delete")
    assert "did you mean resume?" in fails(daemon, "restore", "source_url=/x,resum=on")
    assert "guest would see" in fails(daemon, "restore", source, "--overrides", '{"memory":{"size":1048576}}')


def test_cancel_of_no_job(daemon):
    assert "there is no job snapshot-9" in fails(daemon, "cancel", "snapshot-9")


def test_shutdown_vmm_ends_the_daemon(start):
    daemon = start()
    daemon.create(bare("idle"))
    assert ok(daemon, "shutdown-vmm") == ""
    assert daemon.wait_exit() == 0


# wait and events


def test_wait_for_what_is_already_so(daemon):
    assert ok(daemon, "wait", "--state", "None") == ""
    daemon.create(bare("idle"))
    assert ok(daemon, "wait", "--state", "created", "--timeout", "0") == ""
    assert as_json(daemon, "wait", "--state", "Created")["result"] == {"state": "Created"}


@pytest.mark.parametrize("state, commands", [
    ("Running", ["vm.boot"]),
    ("Paused", ["vm.boot", "vm.pause", "vm.resume"]),  # passing through counts
    ("Shutdown", ["vm.boot", "vm.shutdown", "vm.delete"]),
    ("None", ["vm.delete"]),
])
def test_wait_sees_the_state_come_and_go(daemon, state, commands):
    daemon.create(bare("idle"))
    waiting = spawn(daemon, "wait", "--state", state, "--timeout", "60")
    # A second waiter that has its answer proves nothing of the first; so make the way there again and again.
    while waiting.poll() is None:
        for command in commands:
            daemon.put(command)
        if daemon.raw("GET", "vm.info")[0] == 200:
            daemon.put("vm.delete")
        daemon.create(bare("idle"))
    assert (waiting.returncode, waiting.communicate()) == (0, ("", ""))


def test_wait_gives_up_in_time(daemon):
    daemon.create(bare("idle"))
    text = fails(daemon, "wait", "--state", "Running", "--timeout", "0.05")
    assert "the VM is Created after 0.05 s, not Running" in text


def test_wait_waits_for_the_daemon_too(tmp_path):
    at = ("--api-socket", tmp_path / "late.sock")
    assert "nobody listens" in fails(None, *at, "wait", "--state", "None", "--timeout", "0.05")
    waiting = spawn(None, *at, "wait", "--state", "None", "--timeout", "60")
    late = subprocess.Popen([VMMD, *map(str, at)], stdin=subprocess.DEVNULL)
    try:
        assert waiting.wait(60) == 0
        waiting.communicate()
    finally:
        late.terminate()
        assert late.wait(60) == 0


def test_events_end_with_their_reader(daemon):
    daemon.create(bare("idle"))
    following = spawn(daemon, "events", "--since", "0")
    assert "starting" in following.stdout.readline()
    following.stdout.close()  # as head -1 does; no event comes that could tell
    assert following.wait(60) in (0, 1)  # 1: it still had something to say
    following.stderr.close()


def test_wait_ends_with_its_daemon(start):
    daemon = start()
    daemon.create(bare("idle"))
    following = spawn(daemon, "events", "--since", "0")
    assert "starting" in following.stdout.readline()
    descriptors = pathlib.Path(f"/proc/{daemon.process.pid}/fd")
    before = len(list(descriptors.iterdir()))
    waiting = spawn(daemon, "wait", "--state", "Paused")
    deadline = time.monotonic() + 60
    while len(list(descriptors.iterdir())) == before:  # without its daemon it would wait for one
        assert time.monotonic() < deadline
        time.sleep(0.01)
    daemon.stop()
    assert waiting.wait(60) == 1
    following.communicate()
    assert following.returncode == 0


def test_a_guest_that_powers_off_is_waited_for(start):
    daemon = start()
    daemon.create(bare("poweroff"))
    waiting = spawn(daemon, "wait", "--state", "Shutdown", "--timeout", "60")
    following = spawn(daemon, "events", "--since", "0")
    for line in following.stdout:
        if '"created"' in line:
            break
    daemon.put("vm.boot")
    assert daemon.wait_exit() == 0
    following.communicate()
    # Whether it subscribed in time or found the daemon gone: it never hangs.
    assert waiting.wait(60) in (0, 1)


def test_events_are_lines_of_json_from_the_first(daemon):
    daemon.create(bare("idle"))
    daemon.put("vm.boot")
    following = spawn(daemon, "events", "--since", "0")
    lines = []
    while not lines or lines[-1]["event"] != "booted":
        lines.append(json.loads(following.stdout.readline()))
    assert [line["sequence"] for line in lines] == list(range(1, len(lines) + 1))
    daemon.put("vm.pause")
    assert [json.loads(following.stdout.readline())["event"] for _ in range(2)] == ["pausing", "paused"]
    following.send_signal(signal.SIGINT)
    assert following.wait(60) == -signal.SIGINT
    following.communicate()


def test_events_since_a_number(daemon):
    daemon.create(bare("idle"))
    daemon.put("vm.boot")
    following = spawn(daemon, "events", "--since", "2")
    assert json.loads(following.stdout.readline())["sequence"] == 3
    following.kill()
    following.communicate()


def test_input_types_a_line(daemon, tmp_path):
    config = daemon.config(bare("tick"))
    config["serial"] = {"mode": "Pty"}
    daemon.put("vm.create", config)
    daemon.put("vm.boot")
    with open(daemon.get("vm.info")["config"]["serial"]["file"], "rb", buffering=0) as line:
        assert ok(daemon, "input", "hello", "there") == ""
        seen = b""
        while b"echo hello there" not in seen:
            seen += line.read(4096)


def test_status_in_a_few_lines(daemon):
    assert ok(daemon, "status") == "State:  no VM\n"
    daemon.create(bare("idle"))
    text = ok(daemon, "status")
    assert "State:   Created" in text and "RAM:     64 MiB" in text
    assert as_json(daemon, "status")["result"]["vcpus"] == 1
