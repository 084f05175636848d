"""A live page that is served for a test."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fedsim.demo.live import LiveServer


@contextmanager
def serving(iterations: int) -> Iterator[LiveServer]:
    with LiveServer(0, iterations=iterations) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def posted(server: LiveServer, order: dict[str, Any]) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request("POST", "/attack", json.dumps(order).encode())
    return connection.getresponse()
