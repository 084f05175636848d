"""Texts behind updates: those that the clients drew, under the weights that they received; refusals name the table."""

import pytest
import torch

from fedsim.core.errors import ScenarioError
from fedsim.scenario import world as worlds
from fedsim.threat import hidden_states
from fedsim.threat.replay import replay
from tests.experiment.running import Build
from tests.questions.texts import TEXTS, evidence_of


def test_texts_are_those_of_each_clients_batch_under_what_it_received(scenario: Build) -> None:
    evidence = evidence_of(scenario(**TEXTS))
    entries, world = evidence.journal.entries, evidence.world
    for shared in hidden_states.shared_texts(world, entries):
        for entry in (entry for entry in entries if entry.round == shared.number):
            texts = world.data.dataset.train.inputs[shared.examples[shared.clients == entry.client]]
            (batch,) = replay(world, entry).truth.original_batches
            assert sorted(texts.tolist()) == sorted(batch.inputs.tolist())
            held = world.models.load_weights(entry.received_weights).state_dict()
            assert all(torch.equal(held[name], weight) for name, weight in entry.received_weights.items())
    assert [shared.number for shared in hidden_states.shared_texts(world, entries)] == [1, 2]


def test_models_whose_layers_are_not_known_are_refused(scenario: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    world = worlds.build(scenario(**TEXTS))
    hidden_states.check(world, "binding")
    monkeypatch.setattr(hidden_states, "stack_of", lambda _model: None)
    with pytest.raises(ScenarioError, match="binding: the layers of model 'tiny-llama' are not known"):
        hidden_states.check(world, "binding")


def test_data_without_texts_are_refused(scenario: Build) -> None:
    with pytest.raises(ScenarioError, match="surplus: states of texts are read, and data 'digits' has none"):
        hidden_states.check(worlds.build(scenario()), "surplus")
