"""A guard's cover of replies, without a node, and the messages that it answers."""

import time
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, Metadata, RecordDict

from fedsim.core.hooks import NoiseAdder
from fedsim.core.types import Tensors
from fedsim.guard.policy import read_policy
from fedsim.guard.private_reply import PrivateReply, ReplyPrivatizer, RunApp
from fedsim.privacy.discrete_noise import add_discrete
from fedsim.privacy.ledger import Ledger
from tests.guard.site import START, policy

APP = "a" * 64
WORDS = "the site's guard: "
NOTHING = f"{WORDS}nothing is sent for this message."


def message(
    run: int = 5, message_type: str = "train", weights: Tensors = START, **records: ArrayRecord | ConfigRecord
) -> Message:
    content = RecordDict({"weights": ArrayRecord(dict(weights)), **records})
    metadata = Metadata(run, "m", 1, 7, "", "3", time.time(), 3600.0, message_type)
    return Message(content, metadata=metadata)  # pyright: ignore[reportCallIssue]


def trained(received: Tensors) -> Tensors:
    return {name: tensor + 0.01 for name, tensor in received.items()}


def untouched(_received: Tensors) -> Tensors:
    raise AssertionError("the app was run")


def reason(covered: PrivateReply) -> str:
    assert covered.reply.has_error()
    return covered.reply.error.reason or ""


class Guarded:
    def __init__(self, folder: Path, add_noise: NoiseAdder = add_discrete, **changes: Any) -> None:
        policy(folder, **changes)
        self.policy = read_policy(folder / "guard.toml")
        self.ledger = Ledger.open(self.policy.ledger, self.policy.key)
        self.cover = ReplyPrivatizer(self.policy, self.ledger, add_noise)

    def answer(self, sent: Message | None = None, train: RunApp = trained, app: str = APP) -> PrivateReply:
        return self.cover.answer(sent or message(), app, train)


def figures_of(covered: PrivateReply) -> dict[str, Any]:
    """Return the metrics of a reply that holds nothing else, in their order."""
    assert list(covered.reply.content) == ["metrics"]
    return dict(covered.reply.content.metric_records["metrics"])
