"""Apps that try to tell the server a secret past a guard: the reply of every secret is the same, noise aside."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedsim.core.types import Tensors
from tests.guard.guarded import Guarded, message

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
