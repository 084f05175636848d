"""What is sent is settled, and where something fails nothing is sent and what was reserved counts."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import Context, Message, Metadata, RecordDict

from fedsim.core.errors import FedsimError
from fedsim.core.types import Tensors
from fedsim.guard import app_command, serving
from fedsim.guard.policy import read_policy
from fedsim.guard.running import AppProcesses, AppTask
from fedsim.guard.serving import Guard, serve
from fedsim.privacy.ledger import Ledger, open_reservations
from tests.guard import site


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_self: AppProcesses, _order: AppTask, received: Tensors) -> Tensors:
        return received

    monkeypatch.setattr(AppProcesses, "run", run)
    monkeypatch.setattr(app_command, "check_sandbox", lambda _apps: None)


class FakeTask:
    def __init__(self, error: Exception | None = None, *, is_known: bool = True, message_type: str = "train") -> None:
        metadata = Metadata(5, "m", 1, 7, "", "3", time.time(), 3600.0, message_type)
        message = Message(site.content(), metadata=metadata)  # pyright: ignore[reportCallIssue]
        self.order, self.is_known = AppTask(message, Context(5, 7, {}, RecordDict(), {}), 9, b"fab"), is_known
        self.sent: list[Message] = []
        self._error = error

    def send(self, reply: Message) -> None:
        if self._error is not None:
            raise self._error
        self.sent.append(reply)


class Watched:
    def __init__(self, folder: Path, **changes: Any) -> None:
        site.policy(folder, **{"apps": {"seconds": 120.0}, **changes})
        self.folder = folder
        self.policy, self.lines = read_policy(folder / "guard.toml"), list[str]()
        self.ledger = Ledger.open(self.policy.ledger, self.policy.key)

    def handle(self, task: FakeTask) -> None:
        Guard(self.policy, self.ledger, self.folder, self.lines.append).handle(task)  # pyright: ignore[reportArgumentType]


def test_what_was_sent_is_settled_and_said(tmp_path: Path) -> None:
    watched, task = Watched(tmp_path), FakeTask()
    watched.handle(task)
    assert not task.sent[0].has_error()
    assert [entry.kind for entry in watched.ledger.entries()] == ["reserved", "settled"]
    assert watched.lines == ["Run 5, train: sent a private update"]


def test_what_could_not_be_sent_counts(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    with pytest.raises(httpx.ConnectError):
        watched.handle(FakeTask(httpx.ConnectError("gone")))
    assert open_reservations(watched.ledger.entries()) == {1}
    assert watched.ledger.spent("ward", 1e-5).value > 0


def test_a_task_that_is_for_no_client_app_gets_a_sentence(tmp_path: Path) -> None:
    watched, task = Watched(tmp_path), FakeTask(is_known=False)
    watched.handle(task)
    assert task.sent[0].error.reason == "the site's guard: this site runs ClientApps alone."
    assert watched.ledger.entries() == ()
    assert watched.lines == ["Run 5, train: sent nothing: this site runs ClientApps alone"]


@pytest.mark.parametrize(("constant", "expected"), [(True, [180.0]), (False, [])])
def test_time_tells_nothing_where_the_policy_asks_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constant: bool, expected: list[float]
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(serving, "time", SimpleNamespace(sleep=waits.append, monotonic=lambda: 0.0))
    Watched(tmp_path, messages={"constant_time": constant}).handle(FakeTask())
    assert waits == expected


@pytest.mark.parametrize("error", [None, httpx.ConnectError("gone")])
def test_what_an_app_left_is_removed_after_the_reply_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    order: list[str] = []
    monkeypatch.setattr(AppProcesses, "clean", lambda _self: order.append("clean"))
    monkeypatch.setattr(serving, "time", SimpleNamespace(sleep=lambda _s: order.append("wait"), monotonic=lambda: 0.0))
    watched, task = Watched(tmp_path, messages={"constant_time": True}), FakeTask(error)
    send = task.send

    def sending(reply: Message) -> None:
        order.append("send")
        send(reply)

    monkeypatch.setattr(task, "send", sending)
    with contextlib.suppress(httpx.ConnectError):
        watched.handle(task)
    assert order == ["wait", "send", "clean"]


def test_a_reply_that_could_not_keep_its_time_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits, clock = list[float](), iter([0.0, 187.4])
    monkeypatch.setattr(serving, "time", SimpleNamespace(sleep=waits.append, monotonic=lambda: next(clock)))
    watched = Watched(tmp_path, messages={"constant_time": True})
    watched.handle(FakeTask())
    assert waits == [0.0]
    assert "constant_time was not kept: the reply is 7 s late" in watched.lines[0]


def test_a_message_that_is_declined_before_an_app_runs_is_answered_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(serving, "time", SimpleNamespace(sleep=waits.append, monotonic=lambda: 0.0))
    watched = Watched(tmp_path, messages={"constant_time": True, "types": ["train.other"]})
    watched.handle(FakeTask())
    assert waits == []


def served(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *steps: FakeTask | Exception | None, is_left: bool = False
) -> Watched:
    """Serve one step after the other, and stop."""
    watched, should_stop, rest = Watched(folder), threading.Event(), list(steps)

    class Api:
        def __init__(self, _node: object) -> None:
            pass

        def waits(self) -> bool:
            return is_left

        @contextlib.contextmanager
        def next_task(self) -> Iterator[FakeTask | None]:
            step = rest.pop(0)
            if not rest:
                should_stop.set()
            if isinstance(step, Exception):
                raise step
            yield step

    monkeypatch.setattr(serving, "RuntimeApi", Api)
    monkeypatch.setattr(serving, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(serving, "_PAUSE_SECONDS", 0.0)
    serve(watched.policy, should_stop, watched.lines.append)
    return watched


ACCURACY = {"low": 0.0, "high": 1.0, "noise_multiplier": 2.0, "every": 2}


def test_evaluations_are_told_and_only_those_that_ran_an_app_keep_the_constant_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(serving, "time", SimpleNamespace(sleep=waits.append, monotonic=lambda: 0.0))
    rules = {"types": ["train", "evaluate"], "evaluate": "run", "constant_time": True}
    watched = Watched(tmp_path, messages=rules, metrics={"accuracy": ACCURACY})
    for _ in range(2):
        watched.handle(FakeTask(message_type="evaluate"))
    assert watched.lines == ["Run 5, evaluate: sent constant metrics", "Run 5, evaluate: sent noised metrics"]
    assert waits == [180.0]
    assert open_reservations(watched.ledger.entries()) == set()


def test_a_guard_goes_on_after_a_message_that_it_could_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = FakeTask(ValueError("broken")), FakeTask()
    gone = httpx.ConnectError("gone")
    steps = (None, gone, gone, bad, RuntimeError("no message"), good)
    watched = served(tmp_path, monkeypatch, *steps)
    assert (len(bad.sent), len(good.sent)) == (0, 1)
    assert len([line for line in watched.lines if "does not answer as expected: gone" in line]) == 1


CONNECTED = "Connected to the SuperNode at 127.0.0.1:19000. Waits for messages."
REFUSED = "The SuperNode at 127.0.0.1:19000 does not answer as expected: refused. Tries again."


def test_a_guard_says_once_that_it_is_connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = served(tmp_path, monkeypatch, None, FakeTask(), None)
    assert watched.lines == [
        "Gaussian noise: ChaCha20 with keys of the operating system, not computable.",
        "Connects to the SuperNode at 127.0.0.1:19000.",
        CONNECTED,
        "Run 5, train: sent a private update",
    ]


def test_a_guard_says_that_it_is_connected_after_each_refused_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = httpx.ConnectError("refused")
    watched = served(tmp_path, monkeypatch, refused, refused, None, None, refused, FakeTask())
    assert watched.lines[2:6] == [REFUSED, CONNECTED, REFUSED, CONNECTED]


def test_a_guard_that_never_reached_the_supernode_does_not_say_that_it_is_connected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = served(tmp_path, monkeypatch, httpx.ConnectError("refused"), httpx.ConnectError("refused"))
    assert watched.lines[-1] == REFUSED
    watched = served(tmp_path, monkeypatch, None, None, is_left=True)
    assert CONNECTED not in watched.lines


def test_a_guard_that_is_not_accepted_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FedsimError, match="not accepted"):
        served(tmp_path, monkeypatch, FedsimError("not accepted"), None)


@pytest.mark.parametrize("is_left", [False, True])
def test_a_guard_says_that_another_one_ended_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_left: bool
) -> None:
    watched = served(tmp_path, monkeypatch, None, is_left=is_left)
    assert any("An earlier guard stopped during a message" in line for line in watched.lines) is is_left
