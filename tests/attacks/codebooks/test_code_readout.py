"""Codes that fired are read off the rows of a codebook."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedsim.components.bottleneck.codebook import codebooks, reading
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.masks import inject_masks
from tests.attacks.solving import attack_named, left_alone
from tests.federating import watched

MLP = {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.25}
VIT = {"name": "vit-small", "width": 16, "heads": 2, "blocks": 1, "hidden": 16, "patch": 2, "dropout": 0.25}


def book(**settings: Any) -> list[dict[str, Any]]:
    return [{"name": "codebook", "codes": 40, "active": 2, **settings}]


def fired(observation: Any, truth: Any) -> dict[str, Any]:
    with torch.no_grad(), inject_masks(observation.sites, truth.masks[0]), reading(observation.model) as seen:
        observation.model(truth.batches[0].inputs)
    places = codebooks(observation.model)
    found = {}
    for place, (codes,) in seen.items():
        groups, count, _ = places[place].codes.shape
        found[place] = torch.zeros(groups, count, dtype=torch.bool)
        for position in codes.reshape(-1, groups, codes.shape[-1]):
            for group, own in enumerate(position):
                found[place][group, own] = True
    return found


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_without_noise_exactly_the_codes_that_fired_are_read(batch_size, groups):
    observation, truth, world = watched(
        model=MLP, components=book(at=["2", "5"], groups=groups), federation={"batch_size": batch_size}
    )
    guess = attack_named("code-readout", max_iterations=0)(observation, torch.Generator())
    expected = fired(observation, truth)
    assert guess.extras.keys() == {"codebook.2", "codebook.5"}
    for place, rows in expected.items():
        assert 0 < int(rows.sum()) < rows.numel()
        assert torch.equal(guess.extras[f"codebook.{place}"], rows)
        assert guess.diagnostics[f"codes read at '{place}'"] == rows.sum()
    (component,) = world.stack.components
    scores = component.scores(world.models.load_weights(world.models.first_weights), truth, guess)
    assert len(scores) == 4
    assert set(scores.values()) == {1.0}
    assert not len(guess.inputs)
    assert any("codes at '2'" in note for note in guess.notes)


def test_the_task_alone_shows_codes_of_positions_that_somebody_reads():
    places = ["blocks.0.attention.1.joined", "blocks.0.mlp"]
    read = {}
    for loss in ("base", "aeloss"):
        observation, truth, world = watched(model=VIT, components=book(at=places, loss=loss))
        guess = attack_named("code-readout", max_iterations=0)(observation, torch.Generator())
        expected = fired(observation, truth)
        for place in places:
            assert not bool((guess.extras[f"codebook.{place}"] & ~expected[place]).any())
        (component,) = world.stack.components
        read[loss] = component.scores(world.models.load_weights(world.models.first_weights), truth, guess)
    name = "share of the codes fired at 'blocks.0.mlp' that were read"
    assert read["aeloss"][name] == 1.0
    assert read["base"][name] < 0.5  # only the class token is read behind the last block


def test_the_score_counts_what_was_missed_and_what_was_wrong():
    observation, truth, world = watched(model=MLP, components=book(at=["2"]))
    guess = attack_named("code-readout", max_iterations=0)(observation, torch.Generator())
    rows = guess.extras["codebook.2"].clone()
    fired_at_2, silent = rows[0].nonzero().flatten(), (~rows[0]).nonzero().flatten()
    rows[0, fired_at_2[0]] = False
    rows[0, silent[:4]] = True
    (component,) = world.stack.components
    scores = component.scores(
        world.models.load_weights(world.models.first_weights), truth, replace(guess, extras={"codebook.2": rows})
    )
    assert scores["share of the codes fired at '2' that were read"] == 0.5
    assert scores["share of the codes read at '2' that fired"] == 0.2
    assert (
        component.scores(world.models.load_weights(world.models.first_weights), truth, replace(guess, extras={})) == {}
    )


def test_the_inversion_chooses_among_the_codes_that_were_read():
    observation, truth, _ = watched(model={**MLP, "dropout": 0.0}, components=book(at=["2"]))
    with left_alone(observation):
        guess = attack_named("code-readout", max_iterations=30)(observation, torch.Generator().manual_seed(0))
    assert guess.inputs.any()
    assert guess.inputs.shape == truth.batches[0].inputs.shape
    assert not codebooks(observation.model)["2"].rankings
    again = attack_named("code-readout", max_iterations=30)(observation, torch.Generator().manual_seed(0))
    assert torch.equal(guess.inputs, again.inputs)


def test_it_says_why_it_does_not_apply():
    plain, _, _ = watched(model=MLP)
    with pytest.raises(NotApplicable, match="the model has no codebook"):
        attack_named("code-readout")(plain, torch.Generator())
    hidden, _, _ = watched(model=MLP, components=book(at=["2"]), threat={"visible_parameters": ["1.*", "4.*"]})
    with pytest.raises(NotApplicable, match="gradient of no codebook is shared"):
        attack_named("code-readout")(hidden, torch.Generator())
    seen, _, _ = watched(model=MLP, components=book(at=["2"]))
    with pytest.raises(NotApplicable, match="names this attack itself"):
        attack_named("code-readout", inversion="code-readout")(seen, torch.Generator())
