"""Texts by squared and absolute differences."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from attacks.core.matching.comparison import ExplicitGradients, GeneralComparison
from attacks.text.base import TextMatching
from attacks.text.tag import Tag, TagConfig
from fedsim.core import registry
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack
from fedsim.core.types import Observation, Truth
from fedsim.scenario.world import World
from tests.attacks.text.texts import KNOWN

Watched = Callable[..., tuple[Observation, Truth, World]]
Named = Callable[..., Attack[Any]]


def test_granted_labels_need_no_search_for_next_words(
    watched: Watched, written_text: dict[str, Any], attack_named: Named
) -> None:
    observation, _, _ = watched(**written_text, knows=(*KNOWN, "labels"), federation={"batch_size": 1})
    attack = attack_named("tag")
    assert isinstance(attack, TextMatching)
    task = attack.prepare(observation)
    assert type(task.comparison) is GeneralComparison
    assert task.places == observation.spec.shape[0]


def test_the_distance_is_that_of_the_paper() -> None:
    """sum over tensors of a_l (|g - g*|_2^2 + a |g - g*|_1), with weights that decay with depth."""
    generator = torch.Generator().manual_seed(2)
    rows = [tuple(torch.randn(shape, generator=generator) for shape in ((2, 3), (4,))) for _ in range(2)]
    target = [torch.randn(shape, generator=generator) for shape in ((2, 3), (4,))]
    gradients = ExplicitGradients(rows, [target, target], torch.ones(2, 2))
    found = Tag(TagConfig(absolute_weight=0.5, depth_decay=0.9)).distance(gradients)
    expected = [
        sum(
            0.9**depth * float((d := g - t).square().sum() + 0.5 * d.abs().sum())
            for depth, (g, t) in enumerate(zip(row, target, strict=True))
        )
        for row in rows
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_masked_places_are_refused_in_a_sentence(masked_client: tuple[Observation, Truth]) -> None:
    tag = registry.get("attack", "tag")
    with pytest.raises(NotApplicable, match="draws something in every step, as masked places"):
        tag.make(tag.config())(masked_client[0], torch.Generator())
