"""The question trains a split model, and each attack stands beside its controls."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.core.errors import ScenarioError
from fedsim.core.registry import get
from fedsim.processes.subprocess_runner import start_in_subprocess
from fedsim.questions.base import QuestionContext
from fedsim.questions.vertical.question import VerticalQuestion
from fedsim.questions.vertical.types import CutView
from fedsim.record import Finding
from fedsim.scenario import parse
from fedsim.scenario.world import build
from tests.questions.asking import findings_of, scenario_of

TABLE: dict[str, Any] = {
    "parties": [{"name": "mean", "columns": [0, 10]}, {"name": "worst", "columns": [20, 30]}],
    "epochs": 2,
    "attacked_rows": 100,
    "knows": ["few-labels", "top", "bottom", "public-data", "architecture"],
    "attacks": [{"name": "cut-line"}],
}


def scenario(**vertical: Any) -> Any:
    return scenario_of(vertical={**TABLE, **vertical})


def findings(work: QuestionContext | None = None, **vertical: Any) -> dict[str, Finding]:
    return findings_of(scenario(**vertical), work)


def test_labels_are_read_beside_chance_controls_and_the_parties_own_columns() -> None:
    every = findings(attacks=[{"name": "cut-line"}, {"name": "completion", "party": "worst", "epoch": 2}])
    assert {label: one.role for label, one in every.items()} == {
        "the split model": "context",
        "a ridge on the raw columns of 'mean'": "context",
        "a ridge on the raw columns of 'worst'": "context",
        "cut-line (epoch 1)": "attack",
        "cut-line (epoch 1), labels permuted": "context",
        "cut-line (epoch 1), the permuted labels": "context",
        "cut-line (epoch 1), gradients shuffled": "negative-control",
        "cut-line (epoch 1), mean label": "context",
        "completion (epoch 2)": "attack",
        "completion (epoch 2), labels permuted": "context",
        "completion (epoch 2), the permuted labels": "context",
        "completion (epoch 2), raw columns": "context",
    }
    line = every["cut-line (epoch 1)"]
    assert (line.value.value, line.value.n, line.state) == (1.0, 100, "recovered")
    assert line.scope == {"party": "mean", "epoch": 1}
    assert line.extra_metrics["label_auc"].value == 1.0
    assert every["cut-line (epoch 1), the permuted labels"].value == line.value
    for label, one in every.items():
        assert 0.5 <= one.chance_level < 0.8
        if one.role == "negative-control" or label == "cut-line (epoch 1), labels permuted":
            assert not one.is_above_chance, label
    model = every["the split model"]
    assert model.value.value > 0.85


def test_columns_are_read_beside_the_nearest_public_example_and_a_party_without_input() -> None:
    every = findings(width=64, activation="leaky-relu", attacks=[{"name": "cut-inversion", "party": "worst"}])
    solved = every["cut-inversion (epoch 1)"]
    assert solved.value.value > 0.999
    assert solved.extra_metrics["exact_rows"].value == 1.0
    assert solved.extra_metrics["nearer_than_public"].value == 1.0
    nearest = every["cut-inversion (epoch 1), nearest public example"]
    assert 0.0 < nearest.value.value < 1.0
    assert nearest.role == "context"
    blind = every["cut-inversion (epoch 1), input zero"]
    assert blind.role == "negative-control"
    assert not blind.is_above_chance
    assert 0.0 < blind.value.value == pytest.approx(blind.chance_level)  # the better guess without a message
    assert solved.chance_level == blind.chance_level


def test_one_that_steers_is_scored_beside_what_is_left_of_the_model() -> None:
    every = findings(epochs=1, attacks=[{"name": "hijack"}])
    assert every["hijack (epoch 1)"].metric == "cut_r_squared"
    assert every["the split model, steered by hijack (epoch 1)"].role == "context"


def test_predictions_have_no_party_without_input() -> None:
    knows = ["top", "columns", "public-data"]
    every = findings(bottom="none", knows=knows, attacks=[{"name": "esa"}])
    assert list(every) == ["the split model", "esa (epoch 1)", "esa (epoch 1), nearest public example"]


def test_a_defense_hides_labels() -> None:
    defended = findings(defense={"name": "cut-noise", "scale": 3.0})
    value = defended["cut-line (epoch 1)"].value
    assert value.value < 0.9
    drawn_anew = findings(defense={"name": "label-dp", "epsilon": 1.0})["cut-line (epoch 1)"].value
    assert drawn_anew.low < 0.731 < drawn_anew.high  # the share of labels that stay


def test_over_flower_every_finding_is_the_same() -> None:
    attacks = [{"name": "cut-line"}, {"name": "hijack"}]
    here, there = (findings(epochs=1, engine=engine, attacks=attacks) for engine in ("local", "flower"))
    assert [one.model_copy(update={"seconds": 0.0}) for one in here.values()] == [
        one.model_copy(update={"seconds": 0.0}) for one in there.values()
    ]


def test_messages_need_an_engine_that_has_them() -> None:
    raw = scenario(engine="flower").model_dump(mode="json")
    raw["federation"]["engine"] = "vectorized"
    world = build(parse(raw, "test.toml"))
    with pytest.raises(ScenarioError, match="'vectorized', which has no messages"):
        world.questions[0].check(world)


def test_an_attack_that_fails_is_a_finding_with_its_reason() -> None:
    every = findings(top="mlp", attacks=[{"name": "head-algebra"}, {"name": "cut-direction"}])
    assert "vertical.top = 'linear'" in every["head-algebra (epoch 1)"].failure
    assert every["cut-direction (epoch 1)"].value is not None


@pytest.mark.slow
def test_attacks_in_processes_of_their_own_find_the_same() -> None:
    table = {"epochs": 1, "attacks": [{"name": "cut-line"}, {"name": "hijack"}]}
    here, apart = findings(**table), findings(QuestionContext(starts=start_in_subprocess), **table)
    assert {label: one.value for label, one in here.items()} == {label: one.value for label, one in apart.items()}


def test_somebody_may_stop_it() -> None:
    with pytest.raises(KeyboardInterrupt):
        findings(QuestionContext(should_stop=lambda: True))


def test_what_would_stop_it_is_said_before_anything_is_trained() -> None:
    message = r"vertical\.attacks\.0: 'cut-line' needs few-labels\. Add it to vertical\.knows"
    with pytest.raises(ScenarioError, match=message):
        findings(knows=[])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"attacks": [{"name": "cut-line", "party": "means"}]}, "unknown party 'means'. Did you mean 'mean'"),
        ({"attacks": [{"name": "cut-line", "epoch": 3}]}, "attacks.0.epoch is 3, and the last epoch is 2"),
        ({"attacks": [{"name": "cut-line"}] * 2}, "two attacks are reported as 'cut-line"),
        ({"attacks": [{"name": "cut-lines"}]}, "no attack 'cut-lines'. Did you mean 'cut-line'"),
        ({"defense": {"name": "marvel"}}, "no defense 'marvel'. Did you mean 'marvell'"),
        ({"attacks": [{"name": "cut-line", "sharp": 1}]}, "there is no such key"),
    ],
)
def test_a_mistake_in_its_table_is_named(table: Any, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        scenario(**table)


def test_it_says_what_attackers_know() -> None:
    (question,) = build(scenario()).questions
    assert get("question", "vertical").make is VerticalQuestion
    (sentence,) = question.describe_attacker()
    assert "2 parties" in sentence
    assert "few-labels" in sentence


def test_an_attack_that_looks_rows_up_in_the_data_set_reads_no_label() -> None:
    class LooksUp:
        """Answers the labels that the training set has at these row numbers, and reads no message."""

        def __init__(self, labels: Tensor) -> None:
            self.labels = labels

        def call(self, _function: Any, view: CutView, **_more: Any) -> Tensor:
            return torch.eye(2, dtype=torch.double)[self.labels[view.rows]]

    labels = build(scenario()).data.dataset.train.labels
    attack: Any = LooksUp(labels)
    every = findings(QuestionContext(starts=lambda *_: nullcontext(attack)))
    read, shuffled = every["cut-line (epoch 1)"], every["cut-line (epoch 1), gradients shuffled"]
    assert not read.is_above_chance
    assert not shuffled.is_above_chance
