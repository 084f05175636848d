"""What the guard says to a SuperNode, and what it says of one that does not accept it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from fedsim.core.errors import FedsimError
from fedsim.guard import node
from fedsim.guard.node import RuntimeApi
from fedsim.guard.policy import NodeTable


def table(folder: Path) -> NodeTable:
    (folder / "secret").write_bytes(b"s" * 32)
    return NodeTable(address="127.0.0.1:9", secret=folder / "secret")


class Client:
    """A SuperNode that says what a test says."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer, self.said = answer, []

    def AcquireTask(self, request: Any) -> Any:
        self.said.append(sorted(request.supported_task_types))
        return self.answer()

    def SendTaskHeartbeat(self, _request: Any) -> None:
        raise httpx.ConnectError("gone")

    def close(self) -> None:
        self.said.append("closed")


def connected(monkeypatch: pytest.MonkeyPatch, folder: Path, answer: Callable[[], Any]) -> tuple[RuntimeApi, Client]:
    client = Client(answer)
    monkeypatch.setattr(node.RuntimeHttpClient, "from_server_address", lambda *_, **__: client)
    return RuntimeApi(table(folder)), client


def test_a_missing_secret_is_said_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="cannot read node.secret .*nowhere.*openssl rand"):
        RuntimeApi(NodeTable(address="127.0.0.1:9", secret=tmp_path / "nowhere"))


def test_every_kind_of_task_is_taken_so_that_none_blocks_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, client = connected(monkeypatch, tmp_path, lambda: SimpleNamespace(token=""))
    with api.next_task() as task:
        assert task is None
    assert client.said == [sorted(node.TaskType), "closed"]


def refusing() -> Any:
    response = httpx.Response(401, text="no", request=httpx.Request("POST", "http://127.0.0.1:9"))
    raise httpx.HTTPStatusError("no", request=response.request, response=response)


def test_a_node_that_does_not_accept_the_guard_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api, _ = connected(monkeypatch, tmp_path, refusing)
    words = "does not accept this guard: status 401, no. Start it with --isolation"
    with pytest.raises(FedsimError, match=words), api.next_task():
        pass


def test_a_node_that_is_not_there_is_no_mistake_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(httpx.TransportError), RuntimeApi(table(tmp_path)).next_task():
        pass


def test_a_reply_is_pushed_before_the_task_is_ended_and_its_context_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = SimpleNamespace(token="t", task=SimpleNamespace(type=node.TaskType.CLIENT_APP))
    api, client = connected(monkeypatch, tmp_path, lambda: answer)
    run, fab = SimpleNamespace(series_id=9), SimpleNamespace(content=b"fab")
    monkeypatch.setattr(node, "pull_task_input", lambda _client: ("message", "context", run, fab))
    monkeypatch.setattr(node, "push_message", lambda *sent: client.said.append(sent[1:]))
    monkeypatch.setattr(node, "push_task_output", lambda *sent: client.said.append(sent[1:]))
    with api.next_task() as task:
        assert task is not None
        assert task.is_known
        assert (task.order.message, task.order.series, task.order.fab) == ("message", 9, b"fab")
        task.send("reply")  # pyright: ignore[reportArgumentType]
    assert client.said[2:] == [("reply", "context"), ("context", "completed", ""), "closed"]


def test_a_beat_that_is_not_heard_ends_nothing() -> None:
    assert node._beat(Client(lambda: None)) is False  # pyright: ignore[reportArgumentType]
