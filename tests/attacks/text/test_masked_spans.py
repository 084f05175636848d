"""Texts of a masked diffusion client are read with their masked tokens and rates."""

from typing import Any

import pytest

from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.types import Observation, Reconstruction, Truth
from tests.attacks.solving import attack_named, hiding, without_information
from tests.attacks.written import WRITTEN, masked_texts
from tests.federating import watched


def read(observation: Observation, **settings: Any) -> Reconstruction:
    return attack_named("masked-spans", **settings)(observation, seeding.generator(0, "attack"))


def in_order(found: Reconstruction, truth: Truth) -> list[int]:
    """The number of each true text among those that were found."""
    rows = [row.tolist() for row in found.inputs]
    return [rows.index(row) for row in truth.original_batches[0].inputs.tolist()]


# Of three texts not all arrangements are tried.
@pytest.mark.parametrize("size", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_every_text_is_read_with_its_masked_tokens_and_its_rate(size: int) -> None:
    observation, truth = masked_texts(size)
    masked, rates = truth.draws[0]["task.masked"], truth.draws[0]["task.rate"]
    found = read(observation)
    order = in_order(found, truth)
    assert sorted(order) == list(range(size))
    assert found.is_exact
    assert found.diagnostics["masked tokens"] == masked.sum()
    for row, place in enumerate(order):
        own = found.diagnostics[f"masking rate of sentence {place + 1}"]
        assert own == pytest.approx(float(rates[row]), rel=1e-3)  # single precision, through a least-squares solution


def test_without_the_output_layer_masked_tokens_are_left_out() -> None:
    observation, truth = masked_texts(2)
    found = read(hiding(observation, "lm_head.weight"))
    masked, inputs = truth.draws[0]["task.masked"], truth.original_batches[0].inputs
    assert not found.is_exact
    assert sorted(found.inputs.tolist()) == sorted(inputs.masked_fill(masked, -1).tolist())


def test_noise_instead_of_the_gradient_gives_nothing() -> None:
    found = read(without_information(masked_texts(2)[0]))
    assert not len(found.inputs)
    assert "lies in the span" in found.stop_reason


def test_models_without_a_mask_token_are_refused() -> None:
    observation, _, _ = watched(**WRITTEN, federation={"batch_size": 1}, knows=("batch-size",))
    with pytest.raises(NotApplicable, match="no mask token"):
        read(observation)
