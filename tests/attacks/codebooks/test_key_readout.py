"""Cells of a key-value bottleneck are read, and images come nearer to their keys."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedsim.components.bottleneck.key_value_bottleneck import bottleneck_of, cells_of
from fedsim.core.errors import NotApplicable
from fedsim.scenario import world as worlds
from tests.attacks.solving import attack_named, left_alone
from tests.federating import watched

MLP = {"name": "mlp", "width": 24, "depth": 1, "dropout": 0.25}
FOUND, TRUE = "share of the cells read that were found", "share of the cells found that were read"
COSINE = "cosine of the encoder's output"
UNTOLD = ("batch-size", "dropout-rates", "input-statistics")


def table(**settings: Any) -> list[dict[str, Any]]:
    return [{"name": "key-value-bottleneck", "codebooks": 12, "pairs": 40, "key_width": 4, "passes": 2, **settings}]


def scores_of(world: worlds.World, truth: Any, guess: Any) -> dict[str, float]:
    (component,) = world.stack.components
    return dict(component.scores(world.models.load_weights(world.models.first_weights), truth, guess))


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("active", [1, 2])
def test_without_noise_exactly_the_cells_that_were_read_are_named(batch_size, active):
    observation, truth, world = watched(
        model=MLP, components=table(active=active), federation={"batch_size": batch_size}, knows=UNTOLD
    )
    guess = attack_named("key-readout", max_iterations=0)(observation, torch.Generator())
    expected = cells_of(bottleneck_of(observation.model).read(truth.batches[0].inputs), 40)
    assert 0 < int(expected.sum()) <= 12 * active * batch_size
    assert torch.equal(guess.extras["key-value-bottleneck.cells"], expected)
    assert guess.diagnostics["cells read"] == expected.sum()
    scores = scores_of(world, truth, guess)
    assert scores[FOUND] == scores[TRUE] == 1.0
    assert scores[COSINE] > 0.7
    if batch_size == active == 1:
        assert scores["share of the keys given to the right record"] == 1.0
    assert guess.extras["key-value-bottleneck.labels"].tolist() == truth.batches[0].labels.sort().values.tolist()
    assert not len(guess.inputs)


def test_labels_with_repeats_are_counted_on_the_first_round():
    federation = {"batch_size": 32, "clients": 2}
    observation, truth, _ = watched(model=MLP, components=table(), federation=federation, knows=UNTOLD)
    guess = attack_named("key-readout", max_iterations=0)(observation, torch.Generator().manual_seed(0))
    assert len(truth.batches[0].labels.unique()) < 32
    assert guess.extras["key-value-bottleneck.labels"].tolist() == truth.batches[0].labels.sort().values.tolist()


def test_records_of_one_label_get_outputs_of_their_own():
    settings = {"codebooks": 40, "pairs": 60}
    federation = {"batch_size": 4, "clients": 300, "local_steps": 1}
    for client in range(20):
        observation, truth, world = watched(
            model=MLP, components=table(**settings), federation=federation, knows=UNTOLD, client=client
        )
        if truth.batches[0].labels.bincount().max() >= 2:
            break
    guess = attack_named("key-readout", max_iterations=0)(observation, torch.Generator().manual_seed(0))
    assert scores_of(world, truth, guess)[COSINE] > 0.9
    features = guess.extras["key-value-bottleneck.features"]
    assert torch.pdist(features).min() > 0.1 * features.norm(dim=1).mean()


def test_a_ridge_saves_the_output_where_equations_are_as_many_as_unknowns():
    cosines: dict[bool, list[float]] = {False: [], True: []}
    for client in range(4):
        observation, truth, world = watched(model=MLP, components=table(codebooks=6), knows=UNTOLD, client=client)
        for ridge, values in cosines.items():
            guess = attack_named("key-readout", max_iterations=0, ridge=ridge)(observation, torch.Generator())
            values.append(scores_of(world, truth, guess)[COSINE])
    assert all(with_it > without for without, with_it in zip(*cosines.values(), strict=True))


def test_noise_hides_cells_only_when_it_is_as_large_as_their_gradient():
    shares = []
    for scale in (1e-4, 1.0):
        noise = [{"name": "gradient-noise", "scale": scale}]
        observation, truth, world = watched(model=MLP, components=table(), defenses=noise, knows=UNTOLD)
        guess = attack_named("key-readout", max_iterations=0)(observation, torch.Generator())
        assert int(guess.extras["key-value-bottleneck.cells"].sum()) == 12  # one a codebook, whatever the noise
        shares.append(scores_of(world, truth, guess)[FOUND])
    assert shares[0] == 1.0
    assert shares[1] < 0.5


def test_images_come_nearer_to_the_keys_and_the_same_seed_gives_the_same_bytes():
    observation, truth, _ = watched(model={**MLP, "width": 96}, components=table(codebooks=48))
    with left_alone(observation):
        guess = attack_named("key-readout", max_iterations=60)(observation, torch.Generator().manual_seed(0))
    assert guess.objective < 0.6 * guess.history[0][1]  # that of a grey image
    again = attack_named("key-readout", max_iterations=60)(observation, torch.Generator().manual_seed(0))
    assert torch.equal(guess.inputs, again.inputs)
    truly = truth.batches[0].inputs
    assert float((guess.inputs - truly).square().mean()) < 0.6 * float(truly.square().mean())


def test_positions_of_a_map_show_cells_and_labels_alone():
    observation, truth, world = watched(
        model={"name": "convnet", "width": 4, "dropout": 0.0}, components=table(at="0"), knows=UNTOLD
    )
    guess = attack_named("key-readout")(observation, torch.Generator())
    scores = scores_of(world, truth, guess)
    assert scores == {FOUND: 1.0, TRUE: 1.0}
    assert guess.extras["key-value-bottleneck.labels"].tolist() == truth.batches[0].labels.tolist()
    assert not len(guess.inputs)
    assert "positions of a feature map" in guess.notes[0]


def test_the_score_counts_what_was_missed_and_what_was_wrong():
    observation, truth, world = watched(model=MLP, components=table())
    guess = attack_named("key-readout", max_iterations=0)(observation, torch.Generator())
    cells = guess.extras["key-value-bottleneck.cells"].clone()
    read, silent = cells.nonzero(), (~cells).nonzero()
    cells[tuple(read[:3].mT)] = False
    cells[tuple(silent[:9].mT)] = True
    wrong = replace(guess, extras={"key-value-bottleneck.cells": cells})
    assert scores_of(world, truth, wrong) == {FOUND: 0.75, TRUE: 0.5}
    assert scores_of(world, truth, replace(guess, extras={})) == {}
    model = bottleneck_of(observation.model)
    with torch.no_grad():
        own = model.features(truth.batches[0].inputs)[:, 0]
    right = scores_of(world, truth, replace(guess, extras={"key-value-bottleneck.features": own}))
    assert list(right.values()) == pytest.approx([1.0, 1.0])
    keys = model.read(truth.batches[0].inputs)[:, :, 0, 0].clone()
    keys[0, :4] = -1
    right = scores_of(world, truth, replace(guess, extras={"key-value-bottleneck.keys": keys}))
    assert right == pytest.approx({"share of the keys given to the right record": 8 / 12})


def test_it_says_why_it_does_not_apply():
    attack = attack_named("key-readout")
    cases = [
        ({}, "the model has no key-value bottleneck"),
        ({"components": table(decoder="linear")}, "are not logits"),
        (
            {"components": table(), "federation": {"algorithm": "fedavg", "local_steps": 2, "batch_size": 1}},
            "holds 2 local steps",
        ),
    ]
    for tables, why in cases:
        observation, _, _ = watched(model=MLP, **tables)
        with pytest.raises(NotApplicable, match=why):
            attack(observation, torch.Generator())
