"""The socket itself: odd clients, limits, and every endpoint's right and wrong verbs."""
import json
import socket

import pytest

from vmmd import bare, eventually, unix_socket

PING = b"GET /api/v1/vmm.ping HTTP/1.1\r\nHost: x\r\n\r\n"


def answers(client, count=1):
    """Reads `count` answers: [(status, headers, body)]."""
    stream = client.makefile("rb")
    found = []
    for _ in range(count):
        status = int(stream.readline().split()[1])
        headers = {}
        while (line := stream.readline().strip()):
            name, value = line.decode().split(":", 1)
            headers[name.lower()] = value.strip()
        if status == 100:
            found.append((status, headers, b""))
            continue
        found.append((status, headers, stream.read(int(headers.get("content-length", 0)))))
    return found


def talk(daemon, data, count=1):
    client = unix_socket(daemon.api)
    try:
        client.sendall(data)
        return answers(client, count)
    finally:
        client.close()


def test_ping_names_version_and_process(daemon):
    answer = daemon.get("vmm.ping")
    assert answer["pid"] == daemon.process.pid
    assert answer["version"] and answer["build_version"]


def test_an_unknown_path_is_404(daemon):
    for path in ("nothing", "vm.info/x", "../etc/passwd", ""):
        status, body = daemon.raw("GET", path)
        assert status == 404 and isinstance(body, list), (path, status, body)


def test_a_wrong_verb_is_405_and_says_the_right_one(daemon):
    for verb in (b"PUT", b"POST", b"DELETE"):
        [(status, headers, _)] = talk(daemon, verb + b" /api/v1/vmm.ping HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert status == 405 and headers["allow"] == "GET"


def test_pipelined_requests_are_answered_in_order(daemon):
    missing = b"GET /api/v1/vm.info HTTP/1.1\r\nHost: x\r\n\r\n"
    found = talk(daemon, PING + missing + PING, 3)
    assert [status for status, _, _ in found] == [200, 404, 200]


def test_one_connection_serves_many_requests(daemon):
    client = unix_socket(daemon.api)
    for _ in range(100):
        client.sendall(PING)
        assert answers(client)[0][0] == 200
    client.close()


def test_http_1_0_is_answered_and_closed(daemon):
    client = unix_socket(daemon.api)
    client.sendall(b"GET /api/v1/vmm.ping HTTP/1.0\r\n\r\n")
    data = b""
    while chunk := client.recv(4096):
        data += chunk
    assert b" 200 " in data.split(b"\r\n")[0]


def test_a_half_closed_client_still_gets_its_answer(daemon):
    client = unix_socket(daemon.api)
    client.sendall(PING)
    client.shutdown(socket.SHUT_WR)
    assert answers(client)[0][0] == 200


def test_expect_100_continue(daemon):
    body = json.dumps(daemon.config(bare("idle"))).encode()
    head = b"PUT /api/v1/vm.create HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    client = unix_socket(daemon.api)
    client.sendall(head)
    assert client.recv(4096).startswith(b"HTTP/1.1 100")
    client.sendall(body)
    assert answers(client)[0][0] == 204


def test_a_chunked_body(daemon):
    body = json.dumps(daemon.config(bare("idle"))).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:10], body[10:])) + b"0\r\n\r\n"
    [(status, _, _)] = talk(
        daemon, b"PUT /api/v1/vm.create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    assert status == 204
    assert daemon.state() == "Created"


def test_a_slow_client_holds_nobody_up(daemon):
    slow = unix_socket(daemon.api)
    slow.sendall(PING[:20])
    for _ in range(20):
        assert daemon.get("vmm.ping")
    slow.sendall(PING[20:])
    assert answers(slow)[0][0] == 200


def test_too_large_is_413(daemon):
    [(status, _, _)] = talk(daemon, b"GET /api/v1/vmm.ping HTTP/1.1\r\nX: " + b"a" * 70000 + b"\r\n\r\n")
    assert status == 413
    [(status, _, _)] = talk(daemon, b"PUT /api/v1/vm.create HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
    assert status == 413
    assert daemon.get("vmm.ping")


@pytest.mark.parametrize("garbage", [b"\x00" * 64, b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n"])
def test_garbage_is_refused_and_the_daemon_serves_on(daemon, garbage):
    client = unix_socket(daemon.api)
    client.sendall(garbage)
    client.shutdown(socket.SHUT_WR)
    data = b""
    while chunk := client.recv(4096):
        data += chunk
    assert data == b"" or b" 400 " in data.split(b"\r\n")[0] or b" 505 " in data.split(b"\r\n")[0], data
    assert daemon.get("vmm.ping")


def test_more_clients_than_fit_are_told_so_and_later_served(daemon):
    clients = []
    try:
        for _ in range(70):
            clients.append(unix_socket(daemon.api))
            clients[-1].sendall(PING)
        statuses = [answers(client)[0][0] for client in clients]
    finally:
        for client in clients:
            client.close()
    assert set(statuses) == {200, 503} and statuses.count(200) == 64
    # The server sees the ends of the others in its own time: 503 until then, never silence.
    eventually(lambda: daemon.raw("GET", "vmm.ping")[0] == 200)


UNBUILT = [
    "vm.resize-zone", "vm.add-device", "vm.add-user-device", "vm.add-disk", "vm.add-fs",
    "vm.add-pmem", "vm.add-net", "vm.add-vdpa", "vm.add-vsock", "vm.remove-device", "vm.coredump",
    "vm.receive-migration", "vm.send-migration",
]


@pytest.mark.parametrize("path", UNBUILT)
def test_what_cloud_hypervisor_has_and_we_not_yet_is_501(daemon, path):
    status, body = daemon.raw("PUT", path, {})
    assert status == 501 and body and path.split(".")[1].split("-")[-1] in " ".join(body), (status, body)


def test_pings_answer_while_a_guest_runs_and_is_paused(daemon):
    serial = daemon.boot(bare("tick"))
    for _ in range(50):
        daemon.put("vm.pause")
        assert daemon.get("vmm.ping")
        daemon.put("vm.resume")
        assert daemon.get("vm.info")["state"] == "Running"
    serial.ask("alive", r"^echo alive$")


def test_events_resume_where_a_client_left_off(daemon):
    daemon.boot(bare("idle"))
    daemon.events.wait("vm", "booted")
    seen = len(daemon.events.seen)
    daemon.put("vm.pause")
    daemon.put("vm.resume")
    client = unix_socket(daemon.api)
    client.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\nLast-Event-ID: %d\r\n\r\n" % seen)
    stream = client.makefile("rb")
    while not (line := stream.readline()).startswith(b"data:"):
        assert line
    assert json.loads(line[5:])["sequence"] == seen + 1
    client.close()
