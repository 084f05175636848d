"""Parts of the walk: inputs that all equations behind them sharpen, and a walk in double precision."""

import pytest
import torch
from torch import Tensor

from attacks.second_order._chain_walk import Walk
from attacks.second_order._head_reading import read_head
from attacks.second_order._residual_chain import chain_of
from attacks.second_order._stage_facts import facts_of
from tests.attacks.second_order.residual import residual
from tests.attacks.second_order.solved import toy


def walk_of() -> tuple[Walk, Tensor]:
    """A walk of an update in double precision, and the image."""
    observation, truth = toy(residual(4, 16), (1, 4, 4), 1, classes=10)
    chain = chain_of(observation)
    facts = facts_of(observation, chain)
    generator = torch.Generator().manual_seed(0)
    head = read_head(observation, chain.head, facts[-1].returns, truth.batches[0].labels, generator)
    tensors = observation.update.tensors
    return Walk(facts, head.output, tensors, 8, generator, lambda *_: None), truth.batches[0].inputs


def test_an_input_whose_stage_shows_its_scale_is_sharpened_by_all_equations_behind_it() -> None:
    walk, image = walk_of()
    stem = walk.facts[0].stage
    inputs = stem.close(stem.apply(stem.weights(), image))
    noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    misfit, sharp = walk._refine_input(1, inputs + 1e-3 * noise)
    assert misfit < 1e-20  # the square of rounding in double precision, over some ten tensors
    assert float((sharp - inputs).norm() / inputs.norm()) < 1e-8


@pytest.mark.slow
def test_in_double_precision_the_image_comes_back_with_its_contrast() -> None:
    walk, image = walk_of()
    solved = walk.back().values.view(image.shape)
    assert float((solved - image).norm() / image.norm()) < 1e-6  # the norm's constant shows the contrast to this
