"""The layer behind the embedding: it reads what its own forward pass gets, and the batch's tokens lie in its span."""

import torch

from attacks.batch_separation._token_reader import token_reader
from tests.attacks.batch_separation.transformers import SHAPE, build
from tests.attacks.solving import toy


def test_a_tokens_reading_lies_in_the_span_of_the_batch_and_another_one_does_not() -> None:
    observation, truth = toy(build(), SHAPE, 1, seed=1)
    reader = token_reader(observation, 1)
    outputs = observation.model.project(truth.batches[0].inputs).flatten(2).mT[0].detach()
    mask = truth.masks[0][0][0]
    inside = reader.reads(outputs[2:3], mask[2], 2)
    outside = reader.reads(
        outputs[2:3] + torch.randn(outputs[2:3].shape, generator=torch.Generator().manual_seed(0)), mask[2], 2
    )
    left, other = (float((own - own @ reader.frame.T @ reader.frame).norm() / own.norm()) for own in (inside, outside))
    assert left < 1e-5  # rounding of single precision in the observed gradient
    assert other > 1e-2
