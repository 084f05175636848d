"""What the guard says to a SuperNode, and what it says of one that does not accept it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import Message, RecordDict

from fedsim.core.errors import FedsimError
from fedsim.guard import node
from fedsim.guard.node import RuntimeApi
from fedsim.guard.policy import NodeTable
from tests.guard import site
from tests.guard.supernode import HANDLERS, STEP, Guard, Killed, supernode_in


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


# The calls after which a guard is killed, what the server gets then, and after how many seconds at most. A guard takes
# up a message after 65, waits for it for 10, and falls silent for 60; 10 are for the steps of the test's clock.
MOMENTS = [
    ("AcquireTask", 1, "answer", 75),
    ("PullMessages", 1, "error", 145),
    ("PullTaskInput", 1, "error", 70),
    ("PullObject", 1, "error", 70),
    ("PullObject", 8, "error", 70),
    ("ConfirmMessageReceived", 1, "error", 70),
    ("PushMessages", 1, "error", 70),
    ("PushObject", 1, "error", 70),
    ("PushObject", 8, "error", 70),
    ("PushMessages", 2, "answer", 10),
    ("PushTaskOutput", 1, "answer", 10),
]
AT_WORK = 75  # seconds, in which a SuperNode gives up whatever was left before


def answered(guard: Guard, message: str, work: int = 0) -> int:
    """Have a guard answer until the server has an answer, and return after how many seconds of the clock that was."""
    supernode = guard.supernode
    begin = supernode.seconds
    while not supernode.answers(message) and supernode.seconds < begin + 400:
        guard.answer(work)
        supernode.pass_time(STEP)
    return supernode.seconds - begin


@pytest.mark.parametrize(("last", "times", "expected", "seconds"), MOMENTS)
def test_whenever_a_guard_is_killed_its_message_and_the_next_ones_have_one_reply_each(
    tmp_path: Path, last: str, times: int, expected: str, seconds: int
) -> None:
    with supernode_in(tmp_path) as supernode:
        first = supernode.ask()
        with pytest.raises(Killed):
            Guard(supernode, last, times).answer()
        guard = Guard(supernode)
        assert answered(guard, first) <= seconds
        second = supernode.ask()
        assert answered(guard, second, AT_WORK) <= 65 + AT_WORK + 10
        third = supernode.ask()
        assert answered(guard, third) <= 10
        supernode.pass_time(AT_WORK)
        assert [reply.metadata.reply_to_message_id for reply in supernode.replies] == [first, second, third]
        kinds = ["error" if reply.has_error() else "answer" for reply in supernode.replies]
        assert kinds == [expected, "answer", "answer"]


def test_a_message_that_comes_after_its_task_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with supernode_in(tmp_path) as supernode:
        store, is_late, has_looked = supernode.state.store_message, threading.Event(), threading.Event()

        def store_late(message: Message) -> str | None:
            is_late.set()
            assert has_looked.wait(10)
            return store(message)

        def look(request: Any, state: Any, task: Any) -> Any:
            answer = fetch(request, state, task)
            has_looked.set()
            return answer

        fetch = HANDLERS["PullMessages"]
        monkeypatch.setattr(supernode.state, "store_message", store_late)
        monkeypatch.setitem(HANDLERS, "PullMessages", look)
        supernode.send()
        assert is_late.wait(10)
        assert Guard(supernode).answer()
        supernode.pass_time(STEP)
        assert [reply.has_error() for reply in supernode.replies] == [False]


def test_a_task_has_what_the_server_sent_and_leaves_no_mark(tmp_path: Path) -> None:
    with supernode_in(tmp_path) as supernode:
        message = supernode.ask()
        guard = Guard(supernode)
        with guard.speaking(), guard.api.next_task() as task:
            assert guard.api.waits()
            order = task.order
            task.send(Message(RecordDict(dict(order.message.content)), reply_to=order.message))
        assert task.is_known
        assert order.message.metadata.message_id == message
        assert [*order.message.content] == ["arrays", "config"]
        assert (order.context.node_id, order.fab) == (7, site.archive())
        assert not guard.api.waits()
        assert [path.name for path in tmp_path.iterdir()] == ["secret"]


@pytest.mark.parametrize(("age", "expected"), [(-3600, False), (1, True), (64, True), (66, False)])
def test_a_mark_counts_for_as_long_as_a_supernode_waits_for_a_beat(tmp_path: Path, age: int, expected: bool) -> None:
    api = RuntimeApi(table(tmp_path))
    mark = tmp_path / "secret.at-work"
    mark.touch()
    beat = time.time() - age
    os.utime(mark, (beat, beat))
    assert api.waits() is expected


def test_where_a_guard_cannot_leave_a_mark_it_takes_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.at-work").symlink_to(tmp_path / "nowhere" / "mark")
    api, client = connected(monkeypatch, tmp_path, lambda: SimpleNamespace(token="t"))
    words = r"cannot write .*secret\.at-work: No such file.*write in the folder of node.secret"
    with pytest.raises(FedsimError, match=words), api.next_task():
        pass
    assert client.said[-1] == "closed"


def test_a_beat_that_is_not_heard_ends_nothing(tmp_path: Path) -> None:
    assert RuntimeApi(table(tmp_path))._beat(Client(lambda: None)) is False  # pyright: ignore[reportArgumentType]
