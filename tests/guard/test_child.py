"""Of what an app answers, its numbers alone are written, in the order and the types that the server sent."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, Metadata, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsim.guard import child
from tests.guard import site

SENT = {"b": np.arange(3, dtype=np.float32), "a": np.ones((2, 2), dtype=np.float64)}
MOVED = {"a": np.asfortranarray([[1.0, 2.0], [3.0, 4.0]]), "b": np.array([5, 6, 7], dtype=np.float32)}


def record(arrays: dict[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def numbers(answer: Callable[[Message], Message]) -> bytes:
    return child.train(*asked("train", answer))


def figures(names: list[str], answer: Callable[[Message], Message]) -> list[float]:
    return np.frombuffer(child.evaluate(*asked("evaluate", answer), names)).tolist()


def asked(
    category: Literal["train", "evaluate"],
    answer: Callable[[Message], Message],
    sent: dict[str, np.ndarray] = SENT,
) -> tuple[ClientApp, Message, Context]:
    """Return an app with this answer, a message to it, and its context."""
    app = ClientApp()

    @getattr(app, category)()
    def answering(message: Message, context: Context) -> Message:
        del context
        return answer(message)

    metadata = Metadata(5, "m", 1, 7, "", "3", time.time(), 3600.0, category)
    message = Message(RecordDict({"arrays": record(sent)}), metadata=metadata)  # pyright: ignore[reportCallIssue]
    return app, message, Context(5, 7, {}, RecordDict(), {})


def replying(**records: ArrayRecord | ConfigRecord | MetricRecord) -> Callable[[Message], Message]:
    return lambda message: Message(RecordDict(records), reply_to=message)


def test_numbers_are_written_row_by_row_in_the_order_of_the_server() -> None:
    expected = np.array([5, 6, 7], np.float32).tobytes() + np.array([1, 2, 3, 4], np.float64).tobytes()
    assert numbers(replying(anything=record(MOVED))) == expected


def test_a_counter_that_the_server_sends_as_a_mean_may_come_back_as_an_integer() -> None:
    counter = "bn.num_batches_tracked"
    answer = replying(arrays=record({"w": np.array([2.0]), counter: np.array(8)}))
    expected = np.array([2.0]).tobytes() + np.array(8.0).tobytes()
    assert child.train(*asked("train", answer, {"w": np.array([1.0]), counter: np.array(7.5)})) == expected
    with pytest.raises(ValueError, match="'w' is .* of int64, expected .* of float64"):
        child.train(*asked("train", replying(arrays=record({"w": np.array([2])})), {"w": np.array([1.0])}))


def test_all_else_is_left_out() -> None:
    more = {
        "config": ConfigRecord({"SECRET": b"SECRET"}),
        "metrics": MetricRecord({"SECRET": [1.0] * 100}),
        "more": record({"SECRET": np.ones(9)}),
    }
    assert numbers(replying(**more, arrays=record(MOVED))) == numbers(replying(arrays=record(MOVED)))


def clearing(message: Message) -> Message:
    message.content.array_records["arrays"].clear()
    return replying(arrays=record({}))(message)


def test_an_app_that_changes_the_message_does_not_change_what_is_expected() -> None:
    with pytest.raises(ValueError, match="0 array records of the reply have the names"):
        numbers(clearing)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (replying(), "0 array records of the reply have the names"),
        (replying(one=record(MOVED), two=record(MOVED)), "2 array records of the reply have the names"),
        (replying(arrays=record({**MOVED, "b": np.ones(4, np.float32)})), r"'b' is \(4,\) of float32, expected \(3,\)"),
        (replying(arrays=record({**MOVED, "b": np.ones(3)})), r"'b' is \(3,\) of float64, expected \(3,\) of float32"),
        (lambda message: Message(Error(3, "no data"), reply_to=message), "answers with an error: no data"),
    ],
)
def test_what_is_no_update_is_an_error(answer: Callable[[Message], Message], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        numbers(answer)


def test_figures_are_written_in_the_order_of_the_names_and_missing_ones_are_nan() -> None:
    several = {"one": MetricRecord({"b": 2, "list": [1.0], "extra": 9.0}), "two": MetricRecord({"a": 0.5})}
    told = figures(["a", "list", "b", "absent"], replying(**several, arrays=record(MOVED)))
    assert told == pytest.approx([0.5, np.nan, 2.0, np.nan], nan_ok=True)


def test_an_evaluation_that_answers_an_error_is_one() -> None:
    with pytest.raises(ValueError, match="answers with an error: no data"):
        figures(["a"], lambda message: Message(Error(3, "no data"), reply_to=message))


def test_an_archive_gives_the_app_that_it_names(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    assert isinstance(child.load(site.archive()), ClientApp)
    assert list(tmp_path.glob("apps/stranger.smuggler.*/smuggler/client.py"))


def test_the_process_of_an_app_does_not_import_torch() -> None:
    code = "import sys, fedsim.guard.child; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"
