"""Apps that try to tell the server a secret past a guard: the reply of every secret is the same, noise aside."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from fedsim.core.types import Tensors
from fedsim.guard import child
from fedsim.guard.private_reply import RunApp
from fedsim.privacy.accounting import Spent
from tests.guard.guarded import Guarded, figures_of, message

SECRETS = (1, 2)
NORMED = {
    "w": torch.zeros(40, 50),
    "bn.weight": torch.ones(50),
    "bn.running_mean": torch.zeros(50),
    "bn.running_var": torch.ones(50),
    "bn.num_batches_tracked": torch.tensor(5),
    "mask": torch.tensor([True, False]),
}
RETURNED = ("bn.running_mean", "bn.running_var", "bn.num_batches_tracked", "mask")


def secret_arrays(received: Tensors, secret: int) -> Tensors:
    """Return the received arrays, with a secret in all that no defense noises."""
    told = {
        "bn.running_mean": received["bn.running_mean"] + secret,
        "bn.running_var": received["bn.running_var"] * secret,
        "bn.num_batches_tracked": torch.tensor(secret),
        "mask": torch.tensor([secret == 1, secret == 2]),
    }
    return {**received, **told}


@pytest.mark.parametrize("secret", SECRETS)
def test_integers_and_running_statistics_of_an_app_never_leave(tmp_path: Path, secret: int) -> None:
    guarded = Guarded(tmp_path)
    covered = guarded.answer(message(weights=NORMED), lambda received: secret_arrays(received, secret))
    record = covered.reply.content.array_records["weights"]
    assert list(record) == list(NORMED)
    sent = record.to_torch_state_dict()
    for name in RETURNED:
        assert sent[name].dtype == NORMED[name].dtype
        assert torch.equal(sent[name], NORMED[name])
    assert not torch.equal(sent["w"], NORMED["w"])


@pytest.mark.parametrize("choice", ["received", "noised"])
@pytest.mark.parametrize("name", RETURNED)
@pytest.mark.parametrize("spoilt", ["missing", "of another type", "of another shape"])
def test_an_array_that_does_not_fit_is_a_failure_that_no_reply_shows(
    tmp_path: Path, choice: str, name: str, spoilt: str
) -> None:
    def app(received: Tensors) -> Tensors:
        arrays = dict(received)
        if spoilt == "missing":
            del arrays[name]
        elif spoilt == "of another type":
            arrays[name] = arrays[name].to(torch.float64)
        else:
            arrays[name] = arrays[name].reshape(1, *arrays[name].shape)
        return arrays

    noise = {"name": "local-dp", "clip": 0.5, "noise_multiplier": 4.0, "running_statistics": choice}
    guarded = Guarded(tmp_path, defenses=[noise])
    covered = guarded.answer(message(weights=NORMED), app)
    record = covered.reply.content.array_records["weights"]
    assert [(key, array.shape, array.dtype) for key, array in record.items()] == [
        (key, tuple(tensor.shape), str(tensor.numpy().dtype)) for key, tensor in NORMED.items()
    ]
    assert len(guarded.ledger.entries()) == 1


def figure(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def failing(_expected: Tensors) -> Tensors:
    raise RuntimeError("SECRET")


# What an app's process writes is numbers alone; these apps of the guard's own process can return anything.
APPS: dict[str, tuple[RunApp, float, float]] = {
    "as it should": (lambda _expected: {"loss": figure(2.0), "accuracy": figure(0.25)}, 2.0, 0.25),
    "reordered": (lambda _expected: {"accuracy": figure(0.25), "loss": figure(2.0)}, 2.0, 0.25),
    "with others": (
        lambda _expected: {"SECRET": figure(1.0), "loss": figure(2.0), "accuracy": figure(0.25), "x": figure(9.0)},
        2.0,
        0.25,
    ),
    "NaN and infinite": (
        lambda _expected: {"loss": figure(float("nan")), "accuracy": figure(float("inf"))},
        3.0,
        0.5,
    ),
    "beyond the range": (lambda _expected: {"loss": figure(-1e300), "accuracy": figure(1e300)}, 1.0, 1.0),
    "missing": (lambda _expected: {"loss": figure(2.0)}, 3.0, 0.5),
    "of another shape": (lambda _expected: {"loss": figure(2.0), "accuracy": torch.zeros(3)}, 3.0, 0.5),
    "none": (lambda _expected: {}, 3.0, 0.5),
    "failing": (failing, 3.0, 0.5),
}
METRICS = {
    "loss": {"low": 1.0, "high": 5.0, "noise_multiplier": 0.5},
    "accuracy": {"low": 0.0, "high": 1.0, "noise_multiplier": 0.5},
}
RUN = {"types": ["train", "evaluate"], "evaluate": "run"}


@pytest.mark.parametrize(("app", "loss", "accuracy"), APPS.values(), ids=APPS)
def test_figures_have_the_names_order_and_number_of_the_policy_whatever_the_app_returns(
    tmp_path: Path, app: RunApp, loss: float, accuracy: float
) -> None:
    """With noise of -1 and then +2 deviations the expected figures are computed by hand; the cost is the same."""
    draws = iter([-1.0, 2.0])
    guarded = Guarded(
        tmp_path, lambda tensor, deviation: tensor + next(draws) * deviation, messages=RUN, metrics=METRICS
    )
    covered = guarded.answer(message(message_type="evaluate"), app)
    assert list(figures_of(covered).items()) == [
        ("num-examples", 1),
        ("loss", loss - 0.5 * 4.0),
        ("accuracy", accuracy + 2.0 * 0.5),
    ]
    (entry,) = guarded.ledger.entries()
    assert entry.spent == (Spent(0.5, 1.0, 1), Spent(0.5, 1.0, 1))


REPLIES = {
    "arrays": {"arrays": ArrayRecord({"SECRET": torch.ones(3)}), "metrics": MetricRecord({"accuracy": 0.25})},
    "a config record": {"SECRET": ConfigRecord({"SECRET": b"SECRET"}), "metrics": MetricRecord({"accuracy": 0.25})},
    "other metrics": {"metrics": MetricRecord({"SECRET": 1.0, "accuracy": 0.25, "num-examples": 77})},
    "several records": {"a": MetricRecord({"SECRET": 1.0}), "b": MetricRecord({"accuracy": 0.25})},
    "a list": {"metrics": MetricRecord({"accuracy": [0.25, 1.0]})},
    "nothing": {},
}


@pytest.mark.parametrize("records", REPLIES.values(), ids=REPLIES)
def test_an_apps_process_writes_eight_bytes_for_each_listed_figure_and_nothing_else(records: dict[str, Any]) -> None:
    app = ClientApp()

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        del context
        return Message(RecordDict(records), reply_to=message)

    sent = message(message_type="evaluate")
    numbers = child.evaluate(app, sent, Context(5, 7, {}, RecordDict(), {}), ["loss", "accuracy"])
    loss, accuracy = struct.unpack("2d", numbers)
    assert math.isnan(loss)
    assert accuracy == 0.25 or math.isnan(accuracy)


@pytest.mark.parametrize("secret", SECRETS)
def test_a_declined_evaluation_is_the_same_whatever_the_data(tmp_path: Path, secret: int) -> None:
    (tmp_path / "site").mkdir()
    guarded = Guarded(tmp_path / "site", messages={"types": ["train", "evaluate"], "metrics": {"loss": 0.0}})
    (tmp_path / "site" / "data.txt").write_text(str(secret))
    covered = guarded.answer(message(message_type="evaluate"), failing)
    assert figures_of(covered) == {"num-examples": 1, "loss": 0.0}
