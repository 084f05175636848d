"""The live page: a server on which viewers draw a digit and watch its recovery; it listens on localhost by default.

It stores nothing, sends nothing anywhere but to its viewers, and answers only under its own address: another page can
neither read from it (host header) nor start attacks on it (origin header).
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import AddressValueError, IPv4Address
from typing import Any, get_args
from weakref import WeakSet

from pydantic import ValidationError

from fedsim.core.errors import FedsimError, describe_exception
from fedsim.core.glossary import TERMS
from fedsim.demo.attempt import ViewerOrder, attempt
from fedsim.demo.guess import classifier
from fedsim.demo.messages import Language, messages
from fedsim.demo.page import Safe, embed_json, render, text_of, texts
from fedsim.demo.recording import ATTACKERS
from fedsim.demo.victim import SIDE, Protection

LARGEST_BODY = 32 * 1024  # bytes; a drawing has at most 4 KiB
_DRAINED = 1 << 20
_LONGEST_QUEUE = 48  # more than a class: viewers that have left are noticed after a second
_MOST_VIEWERS = 64  # viewers at the same time, each in a thread; the queue of attacks is shorter
_REQUEST_SECONDS = 10  # time for a whole request to arrive
_SILENCE_SECONDS = 10  # time in which a viewer must receive the answer, over all waits
_LONGEST_LENGTH = 9  # digits
_CLOSING_SECONDS = 5
_PATIENCE_SECONDS = 0.5
_BAR = tuple(255 if column == SIDE // 2 else 0 for _ in range(SIDE) for column in range(SIDE))
_SCRIPTS = ("shared.js", "words.js", "pad.js", "guess.js", "live.js")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
ADDRESS = "127.0.0.1"
EVERYWHERE = "0.0.0.0"
_ELSEWHERE = ("192.0.2.1", 9)  # reserved for documentation: used to look up the route; no packet is sent


class Full(Exception):
    """Too many viewers are waiting already."""


class Turns:
    """Queue that lets viewers attack in turn, in order of arrival.

    Attacks share a process, and each checks that no other thread draws from torch's global generator. Parallel attacks
    would not be faster: the models are small, so that most of the time is Python's.
    """

    def __init__(self) -> None:
        """Start with an empty queue."""
        self._is_free = True
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, on_wait: Callable[[int], None]) -> Iterator[None]:
        """Hold the turn. Before, call `on_wait` about twice a second with the place in the queue, from 1.

        Raises:
            Full: the queue is too long.
        """
        ticket = object()
        with self._changed:
            if len(self._queue) >= _LONGEST_QUEUE:
                raise Full
            self._queue.append(ticket)
        try:
            while place := self._place(ticket):
                on_wait(place)
        except BaseException:
            with self._changed:
                self._queue.remove(ticket)
                self._changed.notify_all()
            raise
        try:
            yield
        finally:
            with self._changed:
                self._is_free = True
                self._changed.notify_all()

    def _place(self, ticket: object) -> int:
        """Return 0 at the ticket's turn, else the place in the queue after a short wait."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_next(ticket), timeout=_PATIENCE_SECONDS):
                return self._queue.index(ticket) + 1
            self._queue.popleft()
            self._is_free = False
            return 0

    def _is_next(self, ticket: object) -> bool:
        return self._is_free and self._queue[0] is ticket


class LiveServer(ThreadingHTTPServer):
    """Serves viewers, each in its own thread."""

    daemon_threads = True

    def __init__(
        self,
        port: int,
        iterations: int = 300,
        host: str = ADDRESS,
        language: Language = "en",
    ) -> None:
        """Listen on a port.

        Args:
            port: 0: any free port.
            iterations: largest number of iterations of a search.
            host: address of this machine at which to listen; 0.0.0.0 means all addresses.
            language: initial language of the page.

        Raises:
            FedsimError: the port is in use or not allowed, or the host is no address of this machine.
        """
        self.address = address_of(host)
        self.is_closing = threading.Event()
        self.attacking = WeakSet[threading.Thread]()
        try:
            super().__init__((host, port), _Viewer)
        except (OSError, OverflowError) as error:
            option = "--host" if getattr(error, "errno", None) == errno.EADDRNOTAVAIL else "--port"
            raise FedsimError(f"cannot listen on {host}, port {port}: {error}. Choose another {option}.") from error
        self.turns = Turns()
        self._room = threading.BoundedSemaphore(_MOST_VIEWERS)
        self.iterations = iterations
        self.hosts = {f"{name}:{self.server_port}" for name in (self.address, *_names_here(host))}
        page = render(
            "live.html.j2",
            language=language,
            title=messages(language)["live.title"],
            messages=Safe(texts(language)),
            classifier=Safe(embed_json(classifier())),
            place="live.here" if self.address == ADDRESS else "live.shared",
            protections=get_args(Protection),
            attackers=[name for name in ATTACKERS if name != "exact"],
        )
        self.files = {
            "/": ("text/html", page.encode()),
            "/words.html": ("text/html", render("words.html.j2", glossary=TERMS).encode()),
            "/style.css": ("text/css", text_of("style.css", "live.css").encode()),
            "/live.js": ("text/javascript", text_of(*_SCRIPTS).encode()),
        }

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{self.address}:{self.server_port}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a viewer, or answer 503 at the largest number of threads."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        with contextlib.suppress(OSError):
            request.sendall(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a viewer, then free its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print an error without facts about the viewer; a disconnected viewer is not an error."""
        error = sys.exception()
        if isinstance(error, Exception) and not isinstance(error, OSError):
            report_failure(error)

    def server_close(self) -> None:
        """Stop listening, and end the attacks: Python must not exit while a thread is inside torch."""
        super().server_close()
        self.is_closing.set()
        end = time.monotonic() + _CLOSING_SECONDS
        for thread in list(self.attacking):
            thread.join(max(0.0, end - time.monotonic()))


def report_failure(error: Exception) -> None:
    """Print why an attack or a request failed on the terminal that serves the page."""
    print(f"The demo failed: {error if isinstance(error, FedsimError) else describe_exception(error)}", file=sys.stderr)


class _Arriving(io.RawIOBase):
    """A viewer's request stream with a deadline for the whole request."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._end = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes.

        Raises:
            TimeoutError: the deadline has passed.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        before = self._connection.gettimeout()
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(before)


class _Viewer(BaseHTTPRequestHandler):
    """Handler of a request."""

    server: LiveServer  # pyright: ignore[reportIncompatibleVariableOverride]  - only this server uses the handler
    timeout = _SILENCE_SECONDS

    def setup(self) -> None:
        """Prepare the streams: a request has a deadline, and a viewer must receive the answer within a time limit."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Arriving(self.connection, _REQUEST_SECONDS))
        self._patience = float(_SILENCE_SECONDS)

    def do_GET(self) -> None:
        """Send the page or a file of it."""
        if self._is_foreign():
            return
        path = self.path.partition("?")[0]
        if path not in self.server.files:
            self._refuse(HTTPStatus.NOT_FOUND, "No page at this address.")
            return
        kind, content = self.server.files[path]
        self._begin(HTTPStatus.OK, f"{kind}; charset=utf-8", len(content))
        self.wfile.write(content)

    def do_POST(self) -> None:
        """Attack a drawing, and stream the steps and results as server-sent events."""
        with contextlib.suppress(OSError):  # the viewer has left
            if self._is_foreign():
                return
            if self.path != "/attack":
                self._refuse(HTTPStatus.NOT_FOUND, "No page at this address.")
                return
            order = self._order()
            if order is not None:
                self._answer(order)

    def _answer(self, order: ViewerOrder) -> None:
        self.server.attacking.add(threading.current_thread())
        try:
            self._begin(HTTPStatus.OK, "text/event-stream; charset=utf-8", None)
            with self.server.turns.hold(lambda place: self._tell("waiting", {"place": place})):
                self._tell("started", {})
                attempt(order, self.server.iterations, self._tell)
        except Full:
            self._tell("refused", {"why": "Too many viewers are waiting. Try again in a minute."})
        except OSError:  # the viewer has left
            raise
        except Exception as error:  # printed for the operator of the server, not sent to the viewers
            report_failure(error)
            self._tell("failed", {})
        self._tell("end", {})

    def _tell(self, event: str, fields: dict[str, Any]) -> None:
        """Send an event.

        Raises:
            OSError: the viewer has left, reads too slowly, or the server closes.
        """
        if self.server.is_closing.is_set():
            raise ConnectionAbortedError
        begin = time.monotonic()
        self.wfile.write(f"event: {event}\ndata: {json.dumps(fields, allow_nan=False)}\n\n".encode())
        self._patience -= time.monotonic() - begin
        if self._patience < 0:
            raise TimeoutError

    def _is_foreign(self) -> bool:
        """Refuse a request for another host or from another page; return whether it was refused."""
        hosts, origin = self.server.hosts, self.headers.get("Origin")
        if self.headers.get("Host") in hosts and (origin is None or origin.removeprefix("http://") in hosts):
            return False
        self._refuse(HTTPStatus.FORBIDDEN, f"This page answers to {self.server.url} only.")
        return True

    def _order(self) -> ViewerOrder | None:
        stated = self.headers.get("Content-Length", "")
        if not (stated.isascii() and stated.isdecimal()):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "The request must state its length.")
            return None
        length = int(stated) if len(stated) <= _LONGEST_LENGTH else 10**_LONGEST_LENGTH
        body = self.rfile.read(length) if length <= _DRAINED else b""
        if length > LARGEST_BODY:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A request may have {LARGEST_BODY} bytes.")
            return None
        try:
            return ViewerOrder.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "the request"
            self._refuse(HTTPStatus.BAD_REQUEST, f"{place}: {first['msg']}.")
            return None

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        content = f"{sentence}\n".encode()
        self._begin(status, "text/plain; charset=utf-8", len(content))
        self.wfile.write(content)

    def _begin(self, status: HTTPStatus, kind: str, length: int | None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()

    def version_string(self) -> str:
        """Return nothing about the machine."""
        return "fedsim"

    def log_message(self, format: str, *args: Any) -> None:
        """Write no log, so that nothing about viewers is kept."""


def serve(port: int, on_ready: Callable[[str], None], host: str = ADDRESS, language: Language = "en") -> None:
    """Serve until interrupted.

    Args:
        port: 0: any free port.
        on_ready: called with the address of the page.
        host: address of this machine at which to listen; 0.0.0.0 means all addresses.
        language: initial language of the page.

    Raises:
        FedsimError: the port is in use or not allowed, the host is no address of this machine, or the digits are not
            installed.
    """
    with LiveServer(port, host=host, language=language) as server:
        attempt(
            ViewerOrder(pixels=_BAR, label=1), 1, lambda _event, _about: None
        )  # done now, so that the first viewer does not wait for it
        on_ready(server.url)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def _names_here(host: str) -> tuple[str, ...]:
    """Return the host names under which a browser on this machine reaches the server."""
    return (ADDRESS, "localhost") if host in (ADDRESS, EVERYWHERE) else ()


def address_of(host: str) -> str:
    """Return the address to open for a server that listens at a host.

    Raises:
        FedsimError: the host is not an address like 192.168.1.5.
    """
    try:
        address = IPv4Address(host)
    except AddressValueError:
        raise FedsimError(
            f"--host {host}: expected an address of this machine, such as 192.168.1.5, or {EVERYWHERE} for all of them."
        ) from None
    return str(address) if host != EVERYWHERE else own_address()


def own_address() -> str:
    """Return the address of this machine in its network, or that of the machine alone where it has no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)
        except OSError:
            return ADDRESS
        return probe.getsockname()[0]
