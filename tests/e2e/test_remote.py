"""vmm-remote over the real socket: quiet success, error chains, exit codes 0, 1 and 2, --json for scripts."""
import json
import os
import subprocess

import pytest

from vmmd import PATIENCE, REMOTE, bare


def run(*words, daemon=None, stdin=None):
    environment = {**os.environ, **({"VMMD_SOCKET": str(daemon.api)} if daemon else {})}
    return subprocess.run([REMOTE, *map(str, words)], env=environment, input=stdin, capture_output=True, text=True,
                          timeout=PATIENCE, **({} if stdin is not None else {"stdin": subprocess.DEVNULL}))


def ok(*words, daemon=None, stdin=None):
    result = run(*words, daemon=daemon, stdin=stdin)
    assert result.returncode == 0 and result.stderr == "", (result.returncode, result.stdout, result.stderr)
    return result.stdout


def test_a_life_from_create_to_shutdown(daemon):
    assert ok("create", daemon=daemon, stdin=json.dumps(daemon.config(bare("tick")))) == ""
    assert ok("boot", daemon=daemon) == ""
    serial = daemon.serial()
    serial.expect(r"^tick 2$")
    assert ok("pause", daemon=daemon) == ""
    assert json.loads(ok("info", daemon=daemon))["state"] == "Paused"
    ok("resume", daemon=daemon)
    serial.ask("hi", r"^echo hi$")
    ok("reboot", daemon=daemon)
    serial.expect(r"^tick 0$")
    ok("shutdown", daemon=daemon)
    ok("delete", daemon=daemon)
    ok("shutdown-vmm", daemon=daemon)
    assert daemon.wait_exit() == 0


def test_create_reads_a_file(daemon, tmp_path):
    file = tmp_path / "vm.json"
    file.write_text(json.dumps(daemon.config(bare("idle"))))
    ok("--api-socket", daemon.api, "create", file)
    assert daemon.state() == "Created"


def test_snapshot_kill_restore(start, tmp_path):
    first = start()
    first.boot(bare("tick")).expect(r"^tick 5$")
    ok("snapshot", "--pause", "--label", "app=web", f"file://{tmp_path}/snap", daemon=first)
    first.kill()
    second = start()
    overrides = json.dumps({"serial": {"mode": "Socket", "socket": str(second.serial_path)}})
    ok("restore", f"source_url=file://{tmp_path}/snap,resume=true", "--overrides", overrides, daemon=second)
    ok("wait", "--state", "Running", "--timeout", "20", daemon=second)
    second.serial().ask("back", r"^echo back$")


def test_the_catalogue_needs_no_daemon(start, tmp_path):
    daemon = start()
    daemon.boot(bare("tick")).expect(r"^tick 1$")
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snaps-one", labels={"app": "web"})
    daemon.stop()
    one = tmp_path / "snaps-one"
    assert "snaps-one" in ok("snapshot", "list", tmp_path) and "64" in ok("snapshot", "list", tmp_path)
    assert "web" in ok("snapshot", "info", one)
    ok("snapshot", "check", one)
    ok("snapshot", "verify", one)
    with (one / "memory.bin").open("r+b") as memory:
        memory.seek(1 << 20)
        byte = memory.read(1)[0]
        memory.seek(1 << 20)
        memory.write(bytes([byte ^ 1]))
    damaged = run("snapshot", "verify", one)
    assert damaged.returncode == 1 and "memory.bin" in damaged.stdout + damaged.stderr
    ok("snapshot", "delete", one)
    assert not one.exists()


def test_an_edited_config_is_refused_until_sealed(start, tmp_path):
    daemon = start()
    daemon.boot(bare("tick")).expect(r"^tick 1$")
    daemon.put("vm.pause")
    daemon.snapshot(tmp_path / "snap")
    config = json.loads((tmp_path / "snap" / "config.json").read_text())
    config["serial"] = {"mode": "Null"}
    (tmp_path / "snap" / "config.json").write_text(json.dumps(config))
    refused = run("snapshot", "check", tmp_path / "snap")
    assert refused.returncode == 1 and "seal" in refused.stdout + refused.stderr
    ok("snapshot", "seal", tmp_path / "snap")
    ok("snapshot", "check", tmp_path / "snap")


def test_a_failed_command_is_exit_1_and_a_chain_on_stderr(daemon):
    result = run("boot", daemon=daemon)
    assert result.returncode == 1 and result.stdout == ""
    assert "vm.boot" in result.stderr and "VM" in result.stderr


def test_json_is_one_object_with_the_errors_too(daemon):
    result = run("--json", "boot", daemon=daemon)
    assert result.returncode == 1
    assert "vm.boot" in json.dumps(json.loads(result.stdout))
    assert json.loads(ok("--json", "ping", daemon=daemon))


def test_no_daemon_is_said_with_the_socket_s_name(tmp_path):
    result = run("--api-socket", tmp_path / "nobody.sock", "ping")
    assert result.returncode == 1 and "nobody.sock" in result.stderr


@pytest.mark.parametrize("words,hint", [
    (["bot"], "boot"),
    (["snapshot"], "destination_url"),
    (["wait", "--state", "Sleeping"], "Paused"),
    (["pause", "now"], "now"),
    ([], "command"),
])
def test_a_wrong_command_line_is_exit_2_and_helps(daemon, words, hint):
    result = run(*words, daemon=daemon)
    assert result.returncode == 2 and hint in result.stderr, result.stderr


def test_without_a_socket_it_asks_for_one():
    result = subprocess.run([REMOTE, "ping"], env={}, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert result.returncode == 2 and "VMMD_SOCKET" in result.stderr


def test_every_command_has_help_with_an_example():
    listing = ok("--help")
    commands = [line.split()[0] for line in listing.split("Subcommands:")[1].splitlines() if line.startswith("  ")]
    commands = [word for word in commands if word[0].isalpha() and word not in ("export", "vmm-remote")]
    assert {"ping", "boot", "snapshot", "restore", "wait", "events"} <= set(commands)
    for command in commands:
        text = ok(command, "--help")
        assert "Example:" in text and f"vmm-remote {command}" in text, command


def test_wait_ends_when_the_state_comes(daemon):
    daemon.boot(bare("tick"))
    waiter = subprocess.Popen([REMOTE, "--api-socket", daemon.api, "wait", "--state", "Paused", "--timeout", "30"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    daemon.put("vm.pause")
    _, errors = waiter.communicate(timeout=PATIENCE)
    assert waiter.returncode == 0, errors


def test_wait_gives_up_in_time(daemon):
    daemon.boot(bare("tick"))
    result = run("wait", "--state", "Shutdown", "--timeout", "1", daemon=daemon)
    assert result.returncode == 1 and "Running" in result.stderr, result


def test_events_are_lines_of_json(daemon):
    daemon.boot(bare("idle"))
    with subprocess.Popen([REMOTE, "--api-socket", daemon.api, "events", "--since", "0"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True) as events:
        names = []
        for line in events.stdout:
            names.append(json.loads(line)["event"])
            if names[-1] == "booted":
                break
        events.terminate()
    assert names[-1] == "booted"


def test_what_is_not_built_is_told(daemon):
    result = run("add-disk", "path=/disk.img", daemon=daemon)
    assert result.returncode == 1 and "add-disk" in result.stderr
