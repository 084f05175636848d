"""What every mitigation promises. Driven by the registry: a new file is covered without a change here."""

from typing import Any

import pytest
import torch

from fedsim.core import registry
from fedsim.core.hooks import Mitigation
from fedsim.core.types import Generated, Trace
from fedsim.generation import veil
from tests.components.mitigation.traces import LONG, SHORT, source

MITIGATIONS = [name for name, method in registry.methods("component").items() if method.hook == "mitigation"]


def made(name: str) -> Mitigation[Any]:
    method = registry.get("component", name)
    return method.make(method.config()).with_name(name)


@pytest.mark.parametrize("name", MITIGATIONS)
def test_it_changes_what_is_seen_and_not_what_is_written(name: str) -> None:
    texts = [Generated(LONG, "length", (1, 2, 3, 4, 5), seconds=(0.1,) * 4), Generated(SHORT, "stop", (1, 2, 3))]
    hidden = veil(made(name), texts, source())
    assert [own.tokens for own in hidden] == [text.tokens for text in texts]
    assert [own.ending for own in hidden] == ["length", "stop"]
    assert all(own.seconds == () for own in hidden)
    assert [text.trace for text in texts] == [LONG, SHORT]
    assert [own.trace for own in hidden] != [LONG, SHORT]


@pytest.mark.parametrize("name", MITIGATIONS)
def test_it_gives_the_same_again_and_draws_from_its_generator_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    first, second = (made(name).transform([LONG, SHORT] * 9, source(3)) for _ in range(2))
    assert first == second
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", MITIGATIONS)
def test_texts_without_steps_and_no_texts_are_no_error(name: str) -> None:
    assert made(name).transform([], source()) == []
    assert len(made(name).transform([Trace(), SHORT], source())) == 2
