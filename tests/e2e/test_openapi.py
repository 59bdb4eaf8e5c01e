"""api/openapi.yaml is exact. (vmmd.py holds every exchange of every test against it; here is what those leave out.)"""
import openapi
import pytest

from vmmd import bare


@pytest.mark.parametrize("path,verb", openapi.endpoints())
def test_every_path_is_served_with_that_verb_and_no_other(daemon, path, verb):
    other = {"GET": "PUT", "PUT": "GET"}[verb]
    status, body = daemon.raw(other, path)
    assert status == 405 and isinstance(body, list), (status, body)
    if path not in ("events", "vmm.shutdown"):
        status, body = daemon.raw(verb, path)
        assert status not in (404, 405) or "VM" in " ".join(body), (status, body)


def test_events_are_as_described(daemon):
    daemon.boot(bare("idle"))
    daemon.put("vm.pause")
    daemon.put("vm.delete")
    daemon.events.wait("vm", "deleted")
    for event in daemon.events.seen:
        assert openapi.errors({"$ref": "#/components/schemas/VmEvent"}, event) == []


def test_info_counters_and_ping_are_as_described_in_every_state(daemon):
    daemon.create(bare("tick"))
    for command in (None, "vm.boot", "vm.pause", "vm.resume", "vm.shutdown"):
        if command:
            daemon.put(command)
        for path in ("vm.info", "vm.counters", "vmm.ping"):
            daemon.get(path)  # checked by the harness


def test_the_example_of_the_documentation_is_valid():
    schema = {"$ref": "#/components/schemas/VmConfig"}
    assert openapi.errors(schema, {"payload": {"kernel": "/boot/vmlinux"}}) == []
    assert openapi.errors(schema, {"payload": {"kernel": 1}}) != []
