"""Sources: the client of an example is told by its update, and not where the updates are dealt out anew."""

from typing import Any

import pytest
import torch

from fedsim.core.errors import ScenarioError
from fedsim.core.types import Batch
from fedsim.experiment.runner import train
from fedsim.questions import sources as asking
from fedsim.questions.base import Evidence, QuestionContext
from fedsim.questions.sources import SourceQuestion, Sources
from fedsim.record import Finding
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.threat.replay import replay
from tests.experiment.running import Build

STEPS: dict[str, Any] = {
    "model": {"name": "mlp", "width": 32, "depth": 1, "dropout": 0.0},
    "partition": {"scheme": "by-class", "classes_per_client": 1},
    "federation": {
        "algorithm": "fedavg",
        "clients": 5,
        "batch_size": 8,
        "local_steps": 10,
        "optimizer": {"name": "sgd", "learning_rate": 0.5},
    },
    "threat": {"victims": 5, "keep_updates": False},
    "sources": {"examples": 6},
}
GRADIENTS = {
    **STEPS,
    "partition": {"scheme": "iid"},
    "federation": {"algorithm": "fedsgd", "clients": 6, "batch_size": 1},
    "threat": {"victims": 6, "keep_updates": False},
}


def evidence(scenario: Scenario) -> Evidence:
    world = worlds.build(scenario)
    journal = train(worlds.build(scenario), lambda _round: None)
    return Evidence(world, journal, [replay(world, entry) for entry in journal.entries])


def ask(scenario: Scenario) -> list[Finding]:
    question = SourceQuestion(Sources.model_validate(scenario.questions["sources"].settings))
    return list(question.run(evidence(scenario), QuestionContext()))


def test_clients_of_one_class_each_are_told_by_loss_and_by_agreement(scenario: Build) -> None:
    by_loss, control, by_agreement, other = ask(scenario(**STEPS))
    for finding in (by_loss, by_agreement):
        assert (finding.state, finding.role, finding.chance_level) == ("recovered", "attack", 0.2)
        assert finding.value.value > 0.9  # ten steps on one class: no other client's model knows it
        assert finding.scope == {"clients": 5, "rounds": 1}
        assert finding.n == 30
    for finding in (control, other):
        assert (finding.state, finding.role) == ("withstood", "negative-control")


def test_the_gradient_of_one_example_agrees_with_no_other_as_well(scenario: Build) -> None:
    known = evidence(scenario(**GRADIENTS))
    (own,) = SourceQuestion(Sources(examples=6))._rounds(known)
    cosines = asking._alignment_scores(known.world, own)
    assert cosines.shape == (6, 6)
    assert cosines[torch.arange(6), own.sources].tolist() == pytest.approx([1.0] * 6, abs=1e-5)  # single precision
    assert int((cosines > 1 - 1e-4).sum()) == 6
    assert torch.equal(own.clients, own.numbers[own.sources])


def test_a_clients_model_is_what_it_trained(scenario: Build) -> None:
    """Brute force: the loss of each example under the model that one client alone would have made."""
    alone = {**STEPS, "federation": {**STEPS["federation"], "clients": 1}, "threat": {"victims": 1}}
    alone["partition"] = {"scheme": "iid"}
    del alone["sources"]
    known = evidence(scenario(**alone))
    weights = asking._client_weights(known.world, known.journal.entries[0])
    for name, weight in known.journal.weights.items():
        torch.testing.assert_close(weights[name], weight)


def test_an_order_that_tells_nothing(scenario: Build) -> None:
    known = evidence(scenario(**STEPS))
    (own,) = SourceQuestion(Sources(examples=6))._rounds(known)
    assert own.sources.bincount().tolist() == [6] * 5
    assert not torch.equal(own.sources, own.sources.sort().values)


def test_examples_of_a_round_stay_with_their_labels(scenario: Build) -> None:
    known = evidence(scenario(**STEPS))
    (own,) = SourceQuestion(Sources(examples=6))._rounds(known)
    held = [Batch.concat([b for b in truth.original_batches if len(b)]) for truth in known.truths]
    for place, source in enumerate(own.sources.tolist()):
        alike = (held[source].inputs == own.examples.inputs[place]).flatten(1).all(1)
        assert bool(alike.any())
        assert int(held[source].labels[alike][0]) == int(own.examples.labels[place])


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"threat": {"victims": 1}}, "threat.victims is 1, so only a single source is possible"),
        ({"threat": {"view": "sum"}, "attacks": []}, "a sum has no single source"),
    ],
)
def test_what_has_no_answer_is_refused_before_training(scenario: Build, tables: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        SourceQuestion(Sources()).check(worlds.build(scenario(**{**STEPS, **tables})))


def test_no_round_with_two_updates_is_a_failure(scenario: Build) -> None:
    known = evidence(scenario(**{**STEPS, "threat": {"victims": 1}}))
    found = list(SourceQuestion(Sources()).run(known, QuestionContext()))
    assert [finding.state for finding in found] == ["failed", "failed"]
