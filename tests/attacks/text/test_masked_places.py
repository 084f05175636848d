"""Which places are masked is read off the first span."""

from collections.abc import Callable

import pytest
import torch

from attacks.core.results import NothingFound
from attacks.text._masked_places import has_no_spans, masked_in_the_span
from fedsim.core.types import Observation, Truth

Texts = Callable[[int], tuple[Observation, Truth]]


def test_the_mask_token_lies_in_the_span_at_masked_places_alone(masked_texts: Texts) -> None:
    observation, truth = masked_texts(1)
    assert torch.equal(masked_in_the_span(observation), truth.draws[0]["task.masked"][0])


def test_noise_in_place_of_a_gradient_is_refused_with_its_reason(
    masked_texts: Texts, without_information: Callable[[Observation], Observation]
) -> None:
    assert has_no_spans(masked_texts(1)[0]) is None
    with pytest.raises(NothingFound, match="no token's embedding lies in the span"):
        masked_in_the_span(without_information(masked_texts(1)[0]))
