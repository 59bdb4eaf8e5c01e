"""Taps that come to vmmd open: with vm.create and vm.restore over the API socket, through vmm-remote, or inherited."""
import contextlib
import json
import os
import socket

import pytest

import netns
import vmmd
from remote import remote

HOST, GUEST = "10.80.0.1", "10.80.0.2"
NET = {"id": "lan", "num_queues": 4, "fds": [-1, -1], "mac": "02:12:34:56:78:9a"}
NET_FDS = [{"id": "lan", "num_fds": 2}]


@pytest.fixture
def namespace():
    with netns.namespace():
        yield


@pytest.fixture(scope="module")
def saved(linux, tmp_path_factory):
    """A snapshot of a guest that had a tap of two queue pairs, passed with vm.create."""
    folder = tmp_path_factory.mktemp("taps")
    with netns.namespace(), vmmd.leaving_snapshot(folder) as daemon:
        with netns.open_tap("first", HOST, queues=2) as fds:
            serial = linux.boot(daemon, cpus=2, net=[NET], fds=fds)
        serial.ask(f"net up eth0 {GUEST} 24", "^net up$")
        assert netns.ping(GUEST, 1400)
    return folder / "snapshot"


def opened(daemon, *names):
    """How many of vmmd's descriptors are such a file."""
    found = 0
    for fd in os.listdir(f"/proc/{daemon.process.pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(f"/proc/{daemon.process.pid}/fd/{fd}") in names
    return found


def taps(daemon):
    return opened(daemon, "/dev/net/tun")


def refused(daemon, path, body, fds):
    status, messages = daemon.raw("PUT", path, body, fds=fds)
    assert status >= 400, messages
    assert taps(daemon) == 0
    return status, " ".join(messages)


def idle(**net):
    return {"payload": {"kernel": vmmd.bare("idle")}, "net": [{"id": "lan", **net}]}


def test_a_snapshot_and_vm_info_name_no_descriptors(saved, namespace, start):
    assert json.loads((saved / "config.json").read_text())["net"][0]["fds"] == [-1, -1]
    daemon = start()
    with netns.open_tap("second", HOST, queues=2) as fds:
        daemon.restore(saved, net_fds=NET_FDS, fds=fds)
    assert daemon.get("vm.info")["config"]["net"][0]["fds"] == [-1, -1]


@pytest.mark.parametrize("how", ["net_fds", "overrides"])
def test_a_restored_vm_has_its_new_taps_until_it_is_deleted(saved, namespace, start, how):
    daemon = start()
    more = {"net_fds": NET_FDS} if how == "net_fds" else {"overrides": {"net": [{"id": "lan", "fds": [-1, -1]}]}}
    with netns.open_tap("second", HOST, queues=2) as fds:
        daemon.restore(saved, fds=fds, **more)
    assert netns.ping(GUEST) and netns.ping(GUEST, 8000)
    assert taps(daemon) == 2
    daemon.put("vm.delete")
    assert taps(daemon) == 0 and not netns.exists("second")


def test_a_tap_may_be_in_another_namespace_than_vmmd(saved, start):
    daemon = start()
    assert daemon.get("vmm.ping")
    with netns.namespace():
        with netns.open_tap("far", HOST, queues=2) as fds:
            daemon.restore(saved, net_fds=NET_FDS, fds=fds)
        assert netns.ping(GUEST)
    assert daemon.get("vm.counters")["net:lan"]["backend_failures"] == 0


def test_a_snapshot_goes_from_descriptors_to_a_tap_by_name_and_back(saved, namespace, start, tmp_path):
    named = start()
    named.restore(saved, overrides={"net": [{"id": "lan", "tap": "named", "ip": HOST, "mask": "255.255.255.0"}]})
    assert netns.ping(GUEST)
    named.put("vm.pause")
    named.snapshot(tmp_path / "snapshot")
    named.put("vm.delete")
    passed = start()
    with netns.open_tap("passed", HOST, queues=2) as fds:
        passed.restore(tmp_path / "snapshot", net_fds=NET_FDS, fds=fds)
    assert netns.ping(GUEST)


def test_a_restore_without_the_taps_it_needs_is_refused_by_the_network_s_name(saved, namespace, start, tmp_path):
    daemon = start()
    source = {"source_url": f"file://{saved}", "overrides": {"serial": {"mode": "Null"}}}
    with netns.open_tap("second", HOST, queues=2) as fds, netns.open_tap("other") as other, \
            (tmp_path / "file").open("w") as file:
        for fields, passed, message in [
                ({}, [], 'the taps of network "lan" were descriptors: pass new ones with net_fds'),
                ({}, fds, "2 descriptors came with the request, and no network takes any"),
                ({"net_fds": NET_FDS}, [], 'no descriptor came with the request, and network "lan" takes 2'),
                ({"net_fds": NET_FDS}, fds[:1], '1 descriptor came with the request, and network "lan" takes 2'),
                ({"net_fds": [{"id": "lan", "num_fds": 1}]}, fds[:1], 'network "lan" takes 2, one for each queue pair'),
                ({"net_fds": [{"id": "wan", "num_fds": 2}]}, fds, 'the snapshot has no network "wan"'),
                ({"net_fds": NET_FDS * 2}, fds * 2, 'network "lan" gets descriptors twice'),
                ({"net_fds": NET_FDS}, [fds[0], file.fileno()], "descriptor 2 of 2 is not an open tap"),
                ({"net_fds": NET_FDS}, [fds[0], other[0]], 'descriptor 2 of 2 is tap "other", not "second"')]:
            status, text = refused(daemon, "vm.restore", {**source, **fields}, passed)
            assert status == 400 and message in text, text
            assert opened(daemon, str(tmp_path / "file")) == 0
        daemon.restore(saved, net_fds=NET_FDS, fds=fds)
    assert netns.ping(GUEST)


def test_wrong_descriptors_are_refused_by_their_numbers(namespace, start, tmp_path):
    daemon = start()
    with (tmp_path / "file").open("w") as file:
        for number, name in [(4711, "descriptor 4711"), (-1, "descriptor 1 of 1")]:
            status, text = refused(daemon, "vm.create", idle(fds=[number]), [file.fileno()])
            assert status == 400 and f"{name} is not an open tap" in text and '"lan"' in text, text
            assert opened(daemon, str(tmp_path / "file")) == 0
    with netns.open_tap("bare", flags=netns.IFF_TAP | netns.IFF_NO_PI) as fds:
        status, text = refused(daemon, "vm.create", idle(fds=[-1]), fds)
        assert status == 400 and "IFF_VNET_HDR" in text, text
    # A number alone is nobody's descriptor, and vmmd's own least of all.
    status, text = refused(daemon, "vm.create", idle(fds=[0]), [])
    assert status == 400 and 'no descriptor came with the request, and network "lan" takes 1' in text, text


def test_requests_that_take_no_descriptors_and_floods_leave_none_open(namespace, start):
    daemon = start()
    with netns.open_tap("flood") as fds:
        assert refused(daemon, "vm.pause", None, fds * 3)[0] == 400
        assert refused(daemon, "vm.create", {"payload": {}, "net": 7}, fds)[0] == 400
        assert refused(daemon, "vm.create", idle(tap="flood", fds=[-1]), fds)[0] == 400
        assert refused(daemon, "vm.add-net", {"fds": [-1]}, fds)[0] == 501
        flooders = [vmmd.unix_socket(daemon.api) for _ in range(16)]
        for client in flooders:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for _ in range(8):  # never a whole request
                    socket.send_fds(client, [b"P"], fds * 253)
        for client in flooders:
            assert b"400 Bad Request" in client.recv(4096)
            while client.recv(4096):
                pass
            client.close()
        # And it still serves.
        daemon.put("vm.create", idle(fds=[-1]), fds=fds)
        assert taps(daemon) == 1
    daemon.put("vm.delete")
    assert taps(daemon) == 0 and not netns.exists("flood")


def test_vmmd_inherits_taps_for_the_vm_it_boots(namespace, start):
    with netns.open_tap("given") as fds:
        daemon = start("--kernel", vmmd.bare("idle"), "--serial", "off", "--net", f"fd={fds[0]},id=lan", inherit=fds)
        daemon.events.wait("vm", "booted")
    assert daemon.get("vm.info")["config"]["net"][0]["fds"] == [-1]
    assert taps(daemon) == 1
    daemon.put("vm.delete")
    assert taps(daemon) == 0 and not netns.exists("given")


def test_vmmd_inherits_taps_for_the_vm_it_restores(saved, namespace, start, tmp_path):
    with netns.open_tap("given", HOST, queues=2) as fds:
        daemon = start("--restore", f"source_url=file://{saved},resume=true,net_fds=[lan@[{fds[0]},{fds[1]}]]",
                       "--overrides", json.dumps({"serial": {"mode": "Null"}}), inherit=fds)
        daemon.events.wait("vm", "resumed")
    assert netns.ping(GUEST)
    assert taps(daemon) == 2


@pytest.mark.parametrize("number, message", [(1, "1 is not the number of a descriptor that was inherited"),
                                             (1000, "descriptor 1000 was not inherited")])
def test_vmmd_says_which_descriptor_it_did_not_inherit(start, number, message):
    daemon = start("--kernel", vmmd.bare("idle"), "--net", f"fd=[{number}],id=lan")
    assert daemon.wait_exit() == 1
    assert f'network "lan": {message}' in daemon.log.read_text()


def test_vmmd_names_the_inherited_descriptor_that_is_no_tap(start, tmp_path):
    with (tmp_path / "file").open("w") as file:
        daemon = start("--kernel", vmmd.bare("idle"), "--net", f"fd={file.fileno()}", inherit=[file.fileno()])
        assert daemon.wait_exit() == 1
        assert f"descriptor {file.fileno()} is not an open tap" in daemon.log.read_text()


def test_vmm_remote_passes_the_taps_that_it_inherits(saved, namespace, start):
    daemon = start()
    with netns.open_tap("given", HOST, queues=2) as fds:
        created = remote(daemon, "create", stdin=json.dumps(idle(fds=fds, num_queues=4)), inherit=fds)
        assert (created.returncode, created.stderr) == (0, "")
        assert taps(daemon) == 2
        daemon.put("vm.delete")
        numbers = ",".join(map(str, fds))
        restored = remote(daemon, "restore", f"{saved},resume=true,net_fds=[lan@[{numbers}]]", "--overrides",
                          json.dumps({"serial": {"mode": "Null"}}), inherit=fds)
        assert (restored.returncode, restored.stderr) == (0, "")
    assert netns.ping(GUEST)


def test_vmm_remote_says_which_descriptor_it_did_not_inherit(daemon):
    run = remote(daemon, "create", stdin=json.dumps(idle(fds=[-1])))
    assert run.returncode == 1 and "-1 is not the number of a descriptor that was inherited" in run.stderr, run
    run = remote(daemon, "restore", "/nowhere,net_fds=[lan@[1000]]")
    assert run.returncode == 1 and '"lan": descriptor 1000 was not inherited' in run.stderr, run


def test_a_check_of_the_snapshot_says_that_it_wants_taps(saved):
    run = remote(None, "snapshot", "check", saved)
    assert run.returncode == 0 and 'network "lan" gets its taps with the restore: see net_fds' in run.stdout, run
