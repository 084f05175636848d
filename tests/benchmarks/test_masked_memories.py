"""What the benchmark of memories measures: chances add up to one, and hidden places are filled in alone."""

from itertools import product

import pytest
import torch
from torch import nn

from benchmarks import masked_memories
from benchmarks._masked_memories import Material
from benchmarks.masked_memories import DECODERS, HIDDEN, STEPS, chances, constrained, written
from fedsim.core import registry, seeding
from fedsim.core.hooks import Condition
from fedsim.core.types import Generated, InputSpec, Limits
from fedsim.generation import generate

WORDS, LENGTH = 3, 5


@pytest.fixture(scope="module")
def model() -> nn.Module:
    family = registry.get("model", "tiny-llada")
    with seeding.isolate_randomness(0):
        own = family.make(
            family.config.model_validate({"width": 16, "blocks": 2, "hidden": 16, "heads": 2}),
            InputSpec((LENGTH,), WORDS, (), (), vocabulary=WORDS),
        ).eval()
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.mul_(8)  # so that places depend on each other
    return own


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_chances_of_all_fillings_of_a_text_add_up_to_one(steps: int, model: nn.Module) -> None:
    hidden = (1, 2, 4)
    every = torch.tensor([[2, a, b, 0, c] for a, b, c in product(range(WORDS), repeat=3)])
    # One order for all fillings: a generator that begins anew for each of them.
    found = [chances(model, text[None], hidden, steps, torch.Generator().manual_seed(4)) for text in every]
    assert float(torch.cat(found).sum()) == pytest.approx(1.0, rel=1e-6)


def test_steps_of_one_place_and_of_all_places_have_chances_of_their_own(model: nn.Module) -> None:
    text = torch.tensor([[0, 1, 2, 1, 0]])
    one, all_ = (chances(model, text, (0, 4), steps, torch.Generator().manual_seed(0)) for steps in (2, 1))
    with torch.no_grad():
        masked = torch.tensor([[True, False, False, False, True]])
        odds = model(text, masked=masked).double().softmax(-1)
    assert float(all_) == pytest.approx(float(odds[0, 0, 0] * odds[0, 4, 0]), rel=1e-6)
    assert abs(float((one / all_).log())) > 0.1


@pytest.mark.parametrize("label", ["threshold 0.5", "window 6, active 3, refresh 4"])
def test_hidden_places_alone_are_filled_in(label: str, model: nn.Module) -> None:
    texts = torch.randint(WORDS, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    done = written(model, texts, (1, 3), *DECODERS[label])
    for own, text in zip(done, texts.tolist(), strict=True):
        assert [own.tokens[place] for place in (0, 2, 4)] == [text[place] for place in (0, 2, 4)]
        assert all(token < WORDS for token in own.tokens)


def test_every_gap_hides_half_of_a_text_and_the_finest_steps_write_one_place_each() -> None:
    assert {len(own) for own in HIDDEN.values()} == {STEPS[-1]}


def test_a_grammar_keeps_texts_with_other_tokens_from_being_written(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masked_memories, "_HALF", 2)
    prefixes = torch.tensor([[0, 1], [1, 2]])
    source = registry.get("dataset", "list-operations")  # not looked at
    data = source.make(source.config.model_validate({"train": 1, "test": 1}))
    written_alone = torch.tensor([list(own.tokens) for own in _written_behind(model, prefixes)])
    members = torch.cat((prefixes, written_alone), 1)
    planted = torch.cat((prefixes, torch.full((2, 2), 2)), 1)
    allowed = torch.tensor([[0, 1]])
    rows = constrained(model, Material(data, members, members, allowed, planted, planted), "briefly")
    shares = {row.name: row.value for row in rows}
    can = (members[:, 2:] < 2).all(1).double().mean()
    assert shares["allowed, members"] == shares["extracted, members"] == can
    assert shares["allowed, planted"] == shares["extracted, planted"] == 0


def _written_behind(model: nn.Module, prefixes: torch.Tensor) -> list[Generated]:
    method = registry.get("component", "fixed")
    condition = Condition(tuple(map(tuple, prefixes.tolist())))
    return generate(
        method.make(method.config()),
        model,
        condition,
        Limits(max_new_tokens=2),
        seeding.generators(0, "a", [(0,), (1,)]),
    )
