"""vm.create: strict about everything, and all of it before anything happens."""
import json
import pathlib

import pytest

from vmmd import bare


def refused(daemon, config, *words, status=400):
    """vm.create answers `status` and names every word; no VM comes of it."""
    found, body = daemon.raw("PUT", "vm.create", config)
    text = " ".join(body) if isinstance(body, list) else str(body)
    assert found == status, (found, body)
    for word in words:
        assert word in text, text
    assert daemon.raw("GET", "vm.info")[0] == 404


def test_info_gives_the_whole_configuration_back(daemon):
    config = daemon.create(bare("idle"), "some words", memory=96 << 20, cpus=2)
    info = daemon.get("vm.info")
    assert info["state"] == "Created"
    assert info["config"]["payload"] == config["payload"]
    assert info["config"]["memory"]["size"] == 96 << 20
    assert info["config"]["memory"]["shared"] is False  # a default, filled in
    assert info["config"]["cpus"]["boot_vcpus"] == 2
    assert info["config"]["serial"]["mode"] == "Socket"


def test_what_info_gives_can_be_created_again(daemon):
    daemon.create(bare("idle"))
    config = daemon.get("vm.info")["config"]
    daemon.put("vm.delete")
    daemon.put("vm.create", config)
    assert daemon.get("vm.info")["config"] == config


@pytest.mark.parametrize("change,pointer", [
    ({"memroy": {}}, "/memroy"),
    ({"cpus": {"boot_vcpus": 1, "max_vcpus": 1, "sockets": 2}}, "/cpus/sockets"),
    ({"serial": {"mode": "Socket", "sokcet": "/tmp/x"}}, "/serial/sokcet"),
    ({"cpus": {"boot_vcpus": "one", "max_vcpus": 1}}, "/cpus/boot_vcpus"),
    ({"cpus": {"boot_vcpus": 1.5, "max_vcpus": 2}}, "/cpus/boot_vcpus"),
    ({"cpus": {"boot_vcpus": 0, "max_vcpus": 1}}, "/cpus/boot_vcpus"),
    ({"cpus": {"boot_vcpus": 4, "max_vcpus": 2}}, "/cpus"),
    ({"cpus": {"boot_vcpus": -1, "max_vcpus": 1}}, "/cpus/boot_vcpus"),
    ({"memory": {"size": 0}}, "/memory/size"),
    ({"memory": {"size": 12345}}, "/memory/size"),
    ({"memory": {"size": 1 << 62}}, "/memory/size"),
    ({"memory": "much"}, "/memory"),
    ({"serial": {"mode": "Loud"}}, "/serial/mode"),
    ({"memory": {"size": 1 << 20}}, "/memory/size: "),
    ({"memory": {"size": 60 << 40}}, "/memory/size: "),
    ({"rng": {"src": "/no/such/source"}}, "/rng: "),
    ({"net": [{"tap": "no/tap"}]}, "/net/0: "),
    ({"payload": {"kernel": "/no/such/kernel"}}, "/no/such/kernel"),
    ({"payload": {"kernel": "/proc"}}, "/proc"),
    ({"payload": {}}, "/payload"),
])
def test_a_mistake_is_named_by_its_place(daemon, change, pointer):
    refused(daemon, {**daemon.config(bare("idle")), **change}, pointer)


@pytest.mark.parametrize("change,pointers", [
    ({"cpus": {"boot_vcpus": 0, "max_vcpus": 300}, "colour": "red"}, ["/cpus/boot_vcpus", "/cpus/max_vcpus", "/colour"]),
    ({"memory": {"size": 1}, "payload": {"kernel": "/no/such/kernel"}}, ["/memory/size", "/no/such/kernel"]),
], ids=["form", "meaning"])
def test_all_mistakes_of_a_kind_are_told_at_once(daemon, change, pointers):
    refused(daemon, {**daemon.config(bare("idle")), **change}, *pointers)


def test_a_duplicate_key_is_refused(daemon):
    text = json.dumps(daemon.config(bare("idle")))
    refused(daemon, text[:-1] + ', "memory": {"size": 1048576}}', "memory")


@pytest.mark.parametrize("body", ["", "{", "[]", "null", "42", '"x"', "{\"payload\": " + "[" * 100000, "\ufeff{}"])
def test_what_is_no_configuration_is_400(daemon, body):
    status, answer = daemon.raw("PUT", "vm.create", body.encode())
    assert status == 400 and answer, (status, answer)
    assert daemon.get("vmm.ping")


@pytest.mark.parametrize("field,value", [
    ("devices", [{"path": "/sys/bus/pci/devices/0000:00:00.0"}]),
])
def test_a_feature_not_built_yet_is_501_and_named(daemon, field, value):
    refused(daemon, {**daemon.config(bare("idle")), field: value}, field, status=501)


@pytest.mark.parametrize("field,value", [("disks", []), ("net", []), ("watchdog", False), ("iommu", False)])
def test_asking_for_nothing_of_it_is_fine(daemon, field, value):
    daemon.put("vm.create", {**daemon.config(bare("idle")), field: value})


@pytest.mark.parametrize("content", [
    b"", b"#!/bin/sh\n", b"\x7fELF" + b"\x00" * 60, b"\x7fELF\x02\x01\x01" + b"\xff" * 100])
def test_a_file_that_is_no_kernel_never_boots_and_says_why(daemon, tmp_path, content):
    (tmp_path / "kernel").write_bytes(content)
    status, body = daemon.raw("PUT", "vm.create", daemon.config(tmp_path / "kernel"))
    if status == 204:
        status, body = daemon.raw("PUT", "vm.boot")
        assert daemon.state() == "Created"
    assert status in (400, 500) and "kernel" in " ".join(body), (status, body)
    if daemon.raw("GET", "vm.info")[0] == 200:
        daemon.put("vm.delete")
    daemon.boot(bare("idle")).expect(r"^idle$")


def test_a_kernel_that_is_gone_at_boot_is_no_missing_vm(daemon, tmp_path):
    """404 says that there is no VM."""
    (tmp_path / "kernel").write_bytes(pathlib.Path(bare("idle")).read_bytes())
    daemon.put("vm.create", daemon.config(tmp_path / "kernel"))
    (tmp_path / "kernel").unlink()
    status, body = daemon.raw("PUT", "vm.boot")
    assert status == 400 and str(tmp_path / "kernel") in " ".join(body), (status, body)


def test_a_truncated_kernel_is_refused(daemon, tmp_path):
    with open(bare("tick"), "rb") as kernel:
        data = kernel.read()
    (tmp_path / "kernel").write_bytes(data[:len(data) // 2])
    daemon.put("vm.create", daemon.config(tmp_path / "kernel"))
    status, body = daemon.raw("PUT", "vm.boot")
    assert 400 <= status <= 500 and "kernel" in " ".join(body)
    assert daemon.state() == "Created"


def test_file_backed_memory_is_made_kept_and_never_resized(start, tmp_path):
    first = start()
    file = tmp_path / "ram"
    config = {**first.config(bare("idle")), "memory": {"size": 64 << 20, "file": str(file)}}
    first.put("vm.create", config)
    first.put("vm.boot")
    first.serial().expect(r"^idle$")
    assert file.stat().st_size == 64 << 20
    first.stop()
    second = start()
    config = {**second.config(bare("idle")), "memory": {"size": 128 << 20, "file": str(file)}}
    status, body = second.raw("PUT", "vm.create", config)
    if status == 204:
        status, body = second.raw("PUT", "vm.boot")
    text = " ".join(body)
    assert status in (400, 409) and str(64 << 20) in text and str(128 << 20) in text, (status, body)
    assert file.stat().st_size == 64 << 20


def test_shared_memory_boots(daemon):
    config = {**daemon.config(bare("idle")), "memory": {"size": 64 << 20, "shared": True}}
    daemon.put("vm.create", config)
    daemon.put("vm.boot")
    daemon.serial().expect(r"^idle$")
