"""Viewers of the live page who send slowly, nonsense, or too often, and those who leave."""

import contextlib
import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from fedsim.core.errors import FedsimError
from fedsim.demo.live import LARGEST_BODY, LiveServer
from tests.demo.drawings import ORDER
from tests.demo.serving import posted, serving


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with serving(iterations=1) as running:
        yield running


def test_a_length_of_five_thousand_digits_is_too_long(server: LiveServer, capfd: pytest.CaptureFixture[str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request("POST", "/attack", b"x", {"Content-Length": "9" * 5000})
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (413, f"A request may have {LARGEST_BODY} bytes.\n".encode())
    assert capfd.readouterr().err == ""


def trickled(server: LiveServer, head: bytes) -> float:
    """Send a byte every twentieth of a second until the server ends it; return after how many seconds it did."""
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=0.05) as connection:
        connection.sendall(head)
        with contextlib.suppress(ConnectionError):  # how the server's end shows, where a byte is on its way
            while time.monotonic() - begin < 60:
                with contextlib.suppress(TimeoutError):
                    if connection.recv(1) == b"":
                        break
                connection.sendall(b" ")
    return time.monotonic() - begin


@pytest.mark.parametrize(
    "head",
    [b"GET / HTT", b"GET / HTTP/1.0\r\nX: ", b"POST /attack HTTP/1.0\r\nHost: %s\r\nContent-Length: 9999\r\n\r\n"],
)
def test_a_whole_request_has_one_deadline_however_slowly_it_is_sent(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    monkeypatch.setattr("fedsim.demo.live._REQUEST_SECONDS", 1)
    head = head.replace(b"%s", server.url.removeprefix("http://").rstrip("/").encode())
    assert 0.5 < trickled(server, head) < 30


def test_only_so_many_viewers_have_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.demo.live._MOST_VIEWERS", 2)
    monkeypatch.setattr("fedsim.demo.live._REQUEST_SECONDS", 60)
    with serving(iterations=1) as small:
        idle = [socket.create_connection(("127.0.0.1", small.server_port), timeout=60) for _ in range(2)]
        before = threading.active_count()
        with socket.create_connection(("127.0.0.1", small.server_port), timeout=60) as third:
            assert third.recv(100).startswith(b"HTTP/1.0 503")
        assert threading.active_count() <= before + 2
        for connection in idle:
            connection.close()
        for _ in range(600):  # until the two threads have noticed
            connection = http.client.HTTPConnection("127.0.0.1", small.server_port, timeout=60)
            connection.request("GET", "/")
            if connection.getresponse().status == 200:
                return
            time.sleep(0.1)
    pytest.fail("nobody was served after the idle ones had left")


def test_viewers_that_leave_are_no_error_and_nothing_is_said_of_who_asked(
    server: LiveServer, capfd: pytest.CaptureFixture[str]
) -> None:
    at_once = struct.pack("ii", 1, 0)
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            connection.sendall(b"GET /live.js HTTP/1.0\r\nHost: %s\r\n\r\n" % server.url[7:-1].encode())
    for error in (BrokenPipeError(), ConnectionResetError(), TimeoutError()):
        try:
            raise error
        except OSError:
            server.handle_error(None, ("203.0.113.7", 1))
    assert capfd.readouterr().err == ""
    try:
        raise KeyError("oops")
    except KeyError:
        server.handle_error(None, ("203.0.113.7", 1))
    said = capfd.readouterr().err
    assert said.startswith("The demo failed: KeyError: 'oops' (test_viewers.py, line")
    assert "203.0.113.7" not in said


def events_of(server: LiveServer, order: dict[str, Any]) -> list[str]:
    return re.findall(r"^event: (\w+)$", posted(server, order).read().decode(), re.MULTILINE)


def test_viewers_who_ask_at_once_all_see_every_attack() -> None:
    orders = [{**ORDER, "attacker": name} for name in ("estimates", "exact", "knows", "exact")]
    with serving(iterations=20) as running, ThreadPoolExecutor(len(orders)) as viewers:
        seen = list(viewers.map(partial(events_of, running), 2 * orders))
    ends = [[event for event in events if event not in ("waiting", "step")] for events in seen]
    assert ends == [["started", "result", "result", "end"], ["started", "result", "end"]] * (len(ends) // 2)


def test_no_two_attacks_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    at_work, most = list[int](), list[int]()

    def watch(*_: object) -> None:
        at_work.append(1)
        most.append(len(at_work))
        time.sleep(0.05)
        at_work.pop()

    monkeypatch.setattr("fedsim.demo.live.attempt", watch)
    with serving(iterations=1) as running, ThreadPoolExecutor(4) as viewers:
        list(viewers.map(partial(events_of, running), [ORDER] * 8))
    assert most == [1] * 8


def test_a_defect_is_told_to_whoever_serves_the_page_and_not_to_viewers(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for error, printed in (
        (FedsimError("Pass generator=generator."), "Pass gen"),
        (KeyError("oops"), "KeyError: 'oop"),
    ):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("fedsim.demo.live.attempt", fail)
        text = posted(server, ORDER).read().decode()
        assert text.endswith("event: failed\ndata: {}\n\nevent: end\ndata: {}\n\n")
        assert "Pass" not in text
        assert "oops" not in text
        assert f"The demo failed: {printed}" in capfd.readouterr().err


def test_closing_ends_the_attacks_that_run() -> None:
    with LiveServer(0, iterations=1_000_000) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        answer = posted(running, ORDER)
        assert b"event: step\n" in iter(answer.readline, b"")
        (attacking,) = running.attacking
        assert attacking.is_alive()
        running.shutdown()
        thread.join()
    assert not attacking.is_alive()
