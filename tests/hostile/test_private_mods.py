"""An app that tries to tell the server a secret past a private mod, by all that Flower lets it write."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, Metadata, MetricRecord, RecordDict

from fedsim.federation.mods import as_mod
from fedsim.privacy.accounting import Spent
from fedsim.privacy.history import history_key, spent

START = {"w": torch.zeros(2, 3), "b": torch.zeros(3)}
MOVED = {"w": torch.full((2, 3), 30.0), "b": torch.full((3,), 40.0)}
SECRETS = (1, 2)
SENT, LIFE = time.time(), 3600.0
App = Callable[[Message, Context], Message]


def arrays(names: tuple[str, ...] = ("w", "b")) -> ArrayRecord:
    return ArrayRecord({name: MOVED[name] for name in names})


def replying(message: Message, **records: Any) -> Message:
    return Message(RecordDict({"arrays": arrays(), **records}), reply_to=message)


def with_metadata(reply: Message, **fields: Any) -> Message:
    reply.metadata.__dict__.update({f"_{name}": value for name, value in fields.items()})
    return reply


def marked(message: Message, secret: int) -> Message:
    """Write into the request itself, of which the reply's metadata are made."""
    message.content.clear()
    with_metadata(message, group_id=f"s{secret}", message_type=f"train.s{secret}", ttl=1000.0 * secret, run_id=secret)
    return replying(message)


CHANNELS: dict[str, Callable[[Message, int], Message]] = {
    "the name of the array record": lambda message, s: Message(RecordDict({f"s{s}": arrays()}), reply_to=message),
    "the order of arrays": lambda message, s: replying(message, arrays=arrays(("w", "b") if s == 1 else ("b", "w"))),
    "the order of records": lambda message, s: Message(
        RecordDict(
            dict([("arrays", arrays()), ("metrics", MetricRecord({"num-examples": 1}))][:: 1 if s == 1 else -1])
        ),
        reply_to=message,
    ),
    "an empty config record": lambda message, s: replying(message, **{f"s{s}": ConfigRecord()}),
    "an empty metric record": lambda message, s: replying(message, **{f"s{s}": MetricRecord()}),
    "the name of the metrics": lambda message, s: replying(message, **{f"s{s}": MetricRecord({"num-examples": 9})}),
    "the number of examples": lambda message, s: replying(message, metrics=MetricRecord({"num-examples": s})),
    "whether it counts examples": lambda message, s: replying(
        message, metrics=MetricRecord({"num-examples": 1} if s == 1 else {})
    ),
    "the metadata of the reply": lambda message, s: with_metadata(
        replying(message), group_id=f"s{s}", message_type=f"train.s{s}", ttl=1000.0 * s, src_node_id=s, dst_node_id=s
    ),
    "the metadata of the request": marked,
    "a metric": lambda message, s: replying(message, more=MetricRecord({f"s{s}": 0.5})),
    "a config record": lambda message, s: replying(message, **{f"s{s}": ConfigRecord({"x": s})}),
    "the number of array records": lambda message, s: replying(message, **{f"s{i}": arrays() for i in range(s)}),
    "the names of arrays": lambda message, s: replying(message, arrays=ArrayRecord({f"s{s}": MOVED["w"]})),
    "which array has another shape": lambda message, s: replying(
        message, arrays=ArrayRecord({**MOVED, "w" if s == 1 else "b": torch.zeros(7)})
    ),
    "which array is complex": lambda message, s: replying(
        message,
        arrays=ArrayRecord({n: t.to(torch.complex64) if n == ("w", "b")[s - 1] else t for n, t in MOVED.items()}),
    ),
    "the type of an array": lambda message, s: replying(
        message, arrays=ArrayRecord({**MOVED, "b": MOVED["b"].to([torch.float16, torch.int64][s - 1])})
    ),
    "the words of an error": lambda message, s: Message(Error(s, f"s{s}"), reply_to=message),
    "the words of an exception": lambda _message, s: (_ for _ in ()).throw(RuntimeError(f"s{s}")),
}


def sent(app: App, message_type: str, context: Context | None = None) -> Message:
    content = RecordDict({"weights": ArrayRecord(START), "config": ConfigRecord({"lr": 0.1})})
    metadata = Metadata(1, "m", 1, 7, "", "3", SENT, LIFE, message_type)
    message = Message(content, metadata=metadata)  # pyright: ignore[reportCallIssue]
    return as_mod("local-dp", seed=3)(message, context or Context(1, 7, {}, RecordDict(), {}), app)


def on_the_wire(reply: Message) -> dict[str, Any]:
    """All that the server gets, but the time at which the reply was made."""
    said = reply.metadata
    assert said.created_at + said.ttl == pytest.approx(SENT + LIFE, abs=1e-3)  # rounding of seconds since 1970
    content = reply.content if reply.has_content() else RecordDict()
    return {
        "who": (said.run_id, said.src_node_id, said.dst_node_id, said.group_id, said.message_type),
        "records": [
            (
                key,
                type(record),
                [(name, value.data if isinstance(value, Array) else value) for name, value in record.items()],
            )
            for key, record in content.items()
        ],
        "error": (reply.error.code, reply.error.reason) if reply.has_error() else None,
    }


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("message_type", ["train", "evaluate"])
def test_the_reply_is_the_same_for_every_secret(channel: str, message_type: str) -> None:
    first, second = (
        on_the_wire(sent(lambda message, _context, s=s: CHANNELS[channel](message, s), message_type)) for s in SECRETS
    )
    assert first == second
    assert not any(f"s{s}" in str(first) for s in SECRETS)


def test_an_empty_answer_names_no_record() -> None:
    def app(message: Message, _context: Context) -> Message:
        return Message(RecordDict({"a secret": MetricRecord(), "another": ConfigRecord()}), reply_to=message)

    assert dict(sent(app, "query").content) == {}


def test_names_and_order_of_the_reply_are_those_of_the_request() -> None:
    reply = sent(lambda message, _context: replying(message, arrays=arrays(("b", "w"))), "train")
    assert list(reply.content) == ["weights", "metrics"]
    assert list(reply.content.array_records["weights"]) == list(START)
    assert dict(reply.content.metric_records["metrics"]) == {"num-examples": 1}
    assert reply.metadata.group_id == "3"


@pytest.mark.parametrize("deed", ["clear", "replace", "look"])
def test_the_app_cannot_make_the_mod_forget_what_was_spent(deed: str) -> None:
    context, seen = Context(1, 7, {}, RecordDict({"mine": ConfigRecord({"calls": 0})}), {}), []

    def app(message: Message, context: Context) -> Message:
        seen.append(sorted(context.state))
        if deed == "clear":
            context.state.clear()
        if deed == "replace":
            context.state = RecordDict({"new": ConfigRecord()})
        return replying(message)

    uploads = [sent(app, "train", context).content.array_records["weights"]["w"].data for _ in range(3)]
    assert spent(context.state, "local-dp") == (Spent(0.5, 1.0, 1),) * 3
    assert len(set(uploads)) == 3
    assert seen[0] == ["mine"]
    assert seen[2] == {"clear": [], "replace": ["new"], "look": ["mine"]}[deed]


def test_an_app_that_writes_a_history_of_its_own_sends_nothing() -> None:
    def app(message: Message, context: Context) -> Message:
        context.state[history_key("local-dp")] = ConfigRecord({"sigma": [9.0], "q": [1.0], "steps": [1]})
        return replying(message)

    context = Context(1, 7, {}, RecordDict(), {})
    reply = sent(app, "train", context)
    assert "the app's state already contains this mod's key" in (reply.error.reason or "")
    assert not reply.has_content()
    assert spent(context.state, "local-dp") == ()
