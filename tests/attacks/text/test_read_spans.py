"""Spans of an update: hard ones without noise, and as many directions as tokens."""

import torch

from attacks.text._read_spans import examples_of, read_spans
from attacks.text._span_tests import Outliers, ShareThreshold
from tests.attacks.written import masked_texts


def test_without_noise_the_first_span_has_a_direction_for_each_input() -> None:
    observation, truth = masked_texts(2)
    reading = read_spans(observation, 5e-4, 5.0, 100)
    assert isinstance(reading.test, ShareThreshold)
    seen = truth.original_batches[0].inputs.masked_fill(truth.draws[0]["task.masked"], observation.model.mask_token)
    with torch.no_grad():
        inputs = reading.front.read_first(seen).flatten(0, 1)
    assert reading.spaces[0].size == torch.linalg.matrix_rank(inputs.double(), rtol=1e-5)
    assert float(reading.spaces[0].distance(inputs).max()) < 1e-8
    assert examples_of(observation) == 2


def test_a_tolerance_below_the_noise_asks_for_outliers() -> None:
    assert isinstance(read_spans(masked_texts(2)[0], 1e-9, 5.0, 100).test, Outliers)
