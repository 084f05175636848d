"""Split training computes what training of the whole model computes, and keeps what crossed the cut."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from fedsim.questions.vertical.training import Party, SplitTraining, make_bottom, make_model, train

PARTIES = [{"name": "a", "columns": [0, 3]}, {"name": "b", "columns": [3, 5]}]
ROWS, LABELS = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).double(), torch.arange(40) % 3


def settings(**table: Any) -> SplitTraining:
    return SplitTraining.model_validate({"parties": PARTIES, "width": 4, "batch_size": 16, **table})


def run(own: SplitTraining, **more: Any) -> Any:
    parts = {party.name: party.select_inputs(ROWS) for party in own.parties}
    model = make_model(own, {name: tuple(part.shape[1:]) for name, part in parts.items()}, 3, 1)
    return model, list(train(own, model, parts, LABELS, 2, **more))


def test_gradients_at_the_cut_are_those_of_the_whole_model_and_steps_are_those_of_one_adam() -> None:
    own = settings(epochs=2)
    model, steps = run(own)
    whole = make_model(own, {"a": (3,), "b": (2,)}, 3, 1)
    modules = nn.ModuleList([*whole.bottoms.values(), whole.top])
    optimizer = torch.optim.Adam(modules.parameters(), own.learning_rate)
    for _, step in steps:
        up = [
            bottom(party.select_inputs(ROWS[step.rows]))
            for bottom, party in zip(whole.bottoms.values(), own.parties, strict=True)
        ]
        for vectors in up:
            vectors.retain_grad()
        optimizer.zero_grad()
        F.cross_entropy(whole.top(torch.cat(up, 1)), LABELS[step.rows]).backward()
        for name, vectors in zip("ab", up, strict=True):
            assert torch.allclose(step.up[name], vectors, atol=1e-12)  # rounding of the same numbers
            assert vectors.grad is not None
            assert torch.allclose(step.down[name], vectors.grad, atol=1e-12)
        optimizer.step()
    ends = zip(modules.parameters(), nn.ModuleList([*model.bottoms.values(), model.top]).parameters(), strict=True)
    assert all(torch.allclose(one, other, atol=1e-10) for one, other in ends)


def test_every_epoch_has_every_example_once_and_seeds_give_the_same_bits() -> None:
    _, steps = run(settings(epochs=3, dropout=0.5))
    for epoch in (1, 2, 3):
        rows = torch.cat([step.rows for number, step in steps if number == epoch])
        assert rows.sort().values.tolist() == list(range(40))
    _, again = run(settings(epochs=3, dropout=0.5))
    assert all(torch.equal(one.down["a"], other.down["a"]) for (_, one), (_, other) in zip(steps, again, strict=True))


def test_a_step_holds_the_parts_that_made_it() -> None:
    _, steps = run(settings(epochs=2))
    for _, step in steps:
        assert torch.equal(step.bottoms["b"](ROWS[step.rows, 3:]), step.up["b"])


@pytest.mark.parametrize(
    ("place", "in_up", "in_down"), [("cut", True, False), ("top", False, True), ("party", False, False)]
)
def test_zeros_of_dropout_are_seen_where_it_sits(place: str, in_up: bool, in_down: bool) -> None:
    _, steps = run(settings(dropout=0.5, dropout_at=place, activation="tanh"))
    assert bool((steps[0][1].up["a"] == 0).any()) is in_up
    assert bool((steps[0][1].down["a"] == 0).any()) is in_down


def test_masks_that_are_read_from_what_was_sent_are_those_that_were_drawn() -> None:
    _, steps = run(settings(dropout=0.5, dropout_at="cut", activation="tanh"))
    for _, step in steps:
        kept = step.up["a"] != 0
        assert torch.equal(step.up["a"], 2 * kept * step.bottoms["a"](ROWS[step.rows, :3]))


def test_what_goes_back_is_what_a_cover_makes_of_it() -> None:
    model, steps = run(
        settings(), cover=lambda step, _labels, _number: {name: 0 * back for name, back in step.down.items()}
    )
    assert all(not step.down["a"].any() for _, step in steps)
    fresh = make_model(settings(), {"a": (3,), "b": (2,)}, 3, 1)
    assert all(
        torch.equal(one, other)
        for one, other in zip(model.bottoms["a"].parameters(), fresh.bottoms["a"].parameters(), strict=True)
    )
    assert not all(
        torch.equal(one, other) for one, other in zip(model.top.parameters(), fresh.top.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("part", "rows", "columns"),
    [
        ("all", (0, 4), (0, 6)),
        ("left", (0, 4), (0, 3)),
        ("right", (0, 4), (3, 6)),
        ("upper", (0, 2), (0, 6)),
        ("lower", (2, 4), (0, 6)),
    ],
)
def test_parts_of_images_are_halves(part: Any, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    images = torch.arange(48.0).reshape(2, 1, 4, 6)
    assert torch.equal(Party(name="a", part=part).select_inputs(images), images[:, :, slice(*rows), slice(*columns)])


@pytest.mark.parametrize(
    ("party", "inputs", "message"),
    [
        ({"part": "left"}, ROWS, "a part of images"),
        ({"columns": (0, 6)}, ROWS, "columns up to 6, but the data have 5"),
        ({"columns": (0, 2)}, torch.zeros(2, 1, 4, 4), "columns of a table"),
    ],
)
def test_a_party_that_cannot_hold_its_part_says_so(party: Any, inputs: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Party(name="a", **party).select_inputs(inputs)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"parties": [{"name": "a"}]}, "needs either columns"),
        ({"parties": [{"name": "a", "columns": [3, 3]}]}, "expected a first and a larger index"),
        ({"parties": [PARTIES[0], PARTIES[0]]}, "two parties have the same name"),
    ],
)
def test_a_mistake_in_the_parties_is_named(table: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**table)


def test_convolutions_halve_an_image_twice_and_no_bottom_passes_inputs_on() -> None:
    images = torch.rand(2, 1, 8, 8).double()
    assert make_bottom(settings(bottom="convolutions"), (1, 8, 8))(images).shape == (2, 32)
    assert torch.equal(make_bottom(settings(bottom="none"), (1, 8, 8))(images), images.flatten(1))
