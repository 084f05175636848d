"""Masked diffusion: an unbiased loss, prompts that are never masked, and draws that are the client's secrets."""

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch, Dataset
from fedsim.tasks.masked_diffusion import MaskedDiffusion, MaskedDiffusionConfig

TASK = MaskedDiffusion(MaskedDiffusionConfig())
VOCABULARY = 5


def drawn(batch: Batch, seed: int = 0, **settings: Any) -> Mapping[str, Tensor]:
    task = MaskedDiffusion(MaskedDiffusionConfig(**settings))
    return task.draw(batch, torch.Generator().manual_seed(seed))


def texts(count: int, prompt: int = 0) -> Batch:
    inputs = torch.randint(VOCABULARY, (count, prompt + 3), generator=torch.Generator().manual_seed(1))
    labels = inputs.clone()
    labels[:, :prompt] = -100
    return Batch(inputs, labels)


def scores(masked: Tensor) -> Tensor:
    """A model that answers by how many places are masked, so that the loss depends on them."""
    table = torch.randn(4, 3, VOCABULARY, generator=torch.Generator().manual_seed(2))
    return table[masked.sum(1)]


@pytest.mark.paper_step("fixed", "masking and weighted loss of training")
def test_the_loss_is_unbiased_in_rate_and_masked_places() -> None:
    count = 40_000
    one = texts(1)
    batch = one.select(torch.zeros(count, dtype=torch.long))
    draws = drawn(batch)
    each = 3 * TASK.losses(scores(draws["masked"]), TASK.targets(batch, draws)).double()
    # By hand: the sum over all masks of the integral of p^(m - 1) (1 - p)^(3 - m) over p, times the cross-entropy.
    rates = (torch.arange(20_000, dtype=torch.double) + 0.5) / 20_000 * (1 - 1e-3) + 1e-3
    expected = 0.0
    for mask in product((False, True), repeat=3):
        masked = torch.tensor([mask])
        costs = torch.nn.functional.cross_entropy(scores(masked)[0], one.inputs[0], reduction="none")[masked[0]]
        m = sum(mask)
        if m:
            expected += float((rates ** (m - 1) * (1 - rates) ** (3 - m)).mean()) * float(costs.sum())
    # Three standard errors of a mean; the largest weights, 1 / p, make it the widest part of the deviation.
    assert abs(float(each.mean()) - expected) < 3 * float(each.std()) / math.sqrt(count)


def test_a_predictor_that_knows_nothing_pays_the_log_of_the_vocabulary() -> None:
    batch = texts(30_000)
    draws = drawn(batch, stratified=True)
    each = TASK.losses(torch.zeros(30_000, 3, VOCABULARY), TASK.targets(batch, draws))
    assert abs(float(each.mean()) - math.log(VOCABULARY)) < 3 * float(each.std()) / math.sqrt(30_000)


def test_a_weight_is_one_over_rate_and_length_and_not_over_the_masked_share() -> None:
    batch = texts(2, prompt=1)
    draws = {"rate": torch.tensor([0.5, 0.25]), "masked": torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)}
    outputs = torch.randn(2, 4, VOCABULARY, generator=torch.Generator().manual_seed(0))
    costs = torch.nn.functional.cross_entropy(outputs[0], batch.inputs[0], reduction="none")
    found = TASK.losses(outputs, TASK.targets(batch, draws))
    torch.testing.assert_close(found[0], (costs[1] + costs[3]) / (0.5 * 3))
    assert found[1] == 0, "a text without masked places is legal"


def test_a_prompt_is_never_masked_and_has_no_gradient() -> None:
    batch = texts(50, prompt=2)
    draws = drawn(batch)
    assert not draws["masked"][:, :2].any()
    outputs = torch.zeros(50, 5, VOCABULARY, requires_grad=True)
    TASK.loss(outputs, TASK.targets(batch, draws)).backward()
    assert outputs.grad is not None
    assert not outputs.grad[:, :2].any()
    assert outputs.grad[:, 2:].any()


def test_each_text_has_a_rate_of_its_own_and_strata_cover_the_range() -> None:
    batch = texts(8)
    assert len(set(drawn(batch)["rate"].tolist())) == 8
    rates = (drawn(batch, stratified=True)["rate"] - 1e-3) / (1 - 1e-3)
    assert sorted((rates * 8).floor().tolist()) == list(range(8))


def test_targets_are_the_inputs_even_where_labels_are_the_next_tokens() -> None:
    inputs, labels = torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, -100]])
    draws = {"rate": torch.ones(1), "masked": torch.tensor([[True, False, False]])}
    tokens = TASK.targets(Batch(inputs, labels), draws)[..., 0]
    assert tokens.tolist() == [[1, -100, -100]]


def test_the_model_is_told_the_masked_places_and_one_without_a_mask_token_is_named() -> None:
    batch = texts(1)
    draws = drawn(batch)
    seen: list[Tensor] = []

    def model(inputs: Tensor, masked: Tensor) -> Tensor:
        seen.append(masked)
        return torch.zeros(*inputs.shape, VOCABULARY)

    TASK.outputs(model, batch, draws)
    assert torch.equal(seen[0], draws["masked"])
    with pytest.raises(FedsimError, match=r"has no mask token.*model\.name = \"tiny-llada\""):
        TASK.outputs(lambda inputs: inputs, batch, draws)


def test_what_is_tested_is_the_bound_and_the_masked_tokens(samples: dict[str, Dataset]) -> None:
    data = samples["next-token"]
    oracle = torch.nn.functional.one_hot(data.test.inputs, 7).float()

    def knowing(inputs: Tensor, masked: Tensor) -> Tensor:
        return 50 * oracle[: len(inputs)] + 0 * masked[..., None]

    def ignorant(inputs: Tensor, masked: Tensor) -> Tensor:
        return torch.zeros(*inputs.shape, 7)

    figures = TASK.evaluate(knowing, data, torch.Generator().manual_seed(0))
    assert figures["test_accuracy"] == 1
    assert figures["test_loss"] < 1e-6
    blind = TASK.evaluate(ignorant, data, torch.Generator().manual_seed(0))
    assert blind["test_loss"] == pytest.approx(math.log(7), rel=1e-6)  # float32
    assert "it needs tokens as labels" in str(TASK.refuses(samples["tagging"]))


def test_without_draws_the_whole_answer_is_masked_and_its_tokens_are_not_seen() -> None:
    batch = texts(3, prompt=2)
    seen: list[Tensor] = []

    def model(tokens: Tensor, masked: Tensor) -> Tensor:
        seen.append(masked)
        return torch.zeros(*tokens.shape, 5)

    TASK.answer(model, batch, {})
    assert torch.equal(seen[0], batch.labels != -100)
