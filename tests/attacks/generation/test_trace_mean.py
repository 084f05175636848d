"""The mean of a count, with the sign that known texts teach; a count that is none is named with the nearest."""

from dataclasses import replace

import pytest
import torch

from attacks.generation.trace_mean import TraceMean, TraceMeanConfig
from fedsim.core.errors import NotApplicable
from tests.attacks.generation.cases import case


def answer(given: object, count: str = "") -> list[float]:
    return TraceMean(TraceMeanConfig(count=count))(given, torch.Generator()).tolist()  # type: ignore[arg-type]


def test_it_is_the_mean_of_the_packets_or_of_a_count() -> None:
    expected = [1.0] * 6 + [2.0] * 6
    assert answer(case("member", "counts")) == expected
    assert answer(case("member", "work"), "accepted") == expected
    assert answer(case("member", "timing")) == [0.25 * own for own in expected]
    assert answer(case("member", "work"), "layers") == [3.0] * 12


def test_known_texts_turn_the_sign() -> None:
    given = case("member", "counts")
    turned = replace(given, labels=tuple(1 - label for label in given.labels))
    assert answer(turned) == [-own for own in answer(given)]


def test_without_known_texts_more_is_a_members() -> None:
    assert max(answer(case("planted", "counts"))) == 2.0


def test_a_count_that_is_none_is_answered_with_the_nearest() -> None:
    with pytest.raises(NotApplicable, match="no count 'layer'. Did you mean 'layers'"):
        answer(case("member", "work"), "layer")
