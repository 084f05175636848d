"""The question trains trees, and each attack stands beside its controls."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.core.errors import ScenarioError
from fedsim.core.registry import get
from fedsim.processes.methods import MethodRunner, start_in_process
from fedsim.questions.base import QuestionContext
from fedsim.questions.trees.question import TreeQuestion
from fedsim.questions.trees.types import RowBoxes, TreesView
from fedsim.record import Finding
from fedsim.scenario.world import build
from tests.questions.asking import findings_of, scenario_of

TABLE: dict[str, Any] = {
    "clients": 2,
    "rows": 40,
    "columns": 5,
    "trees": 3,
    "attacks": [{"name": "leaf-counts"}, {"name": "thresholds"}],
}


def scenario(data: str = "breast-cancer", **trees: Any) -> Any:
    return scenario_of(data, trees={**TABLE, **trees})


def findings(work: QuestionContext | None = None, data: str = "breast-cancer", **trees: Any) -> dict[str, Finding]:
    return findings_of(scenario(data, **trees), work)


def value(finding: Finding) -> float:
    return finding.value.value


def test_what_is_certain_is_read_and_controls_say_of_what() -> None:
    every = findings()
    assert {label: one.role for label, one in every.items()} == {
        "the model": "context",
        "leaf-counts": "attack",
        "leaf-counts, the shuffled labels": "context",
        "leaf-counts, labels shuffled": "context",
        "leaf-counts, against another client's rows": "context",
        "thresholds": "attack",
        "thresholds, against another client's rows": "context",
    }
    assert value(every["the model"]) > 0.8
    assert value(every["leaf-counts"]) == value(every["leaf-counts, the shuffled labels"]) == 1.0
    assert value(every["thresholds"]) == 1.0
    assert every["leaf-counts"].state == every["thresholds"].state == "recovered"
    for label in ("leaf-counts, labels shuffled", "leaf-counts, against another client's rows"):
        assert value(every[label]) < 0.6
    other = every["thresholds, against another client's rows"]
    assert every["thresholds"].chance_level == value(other) < 0.5


def test_guesses_stand_beside_leaves_at_random_and_public_rows() -> None:
    names = [{"name": name, "tries": 2} for name in ("boxes", "box-public-rows")]
    every = findings(trees=5, attacks=names)
    suffixes = ("", ", leaves at random", ", boxes of public rows", ", public rows of any label")
    boxes = [every[f"boxes{suffix}"] for suffix in suffixes]
    assert value(boxes[0]) > value(boxes[1])
    assert boxes[0].chance_level == max(map(value, boxes[1:]))
    assert set(boxes[0].extra_metrics) == {"box_bits", "single_row_boxes"}
    assert "boxes, another client's model" in every
    rows = every["box-public-rows"]
    assert (rows.metric, rows.chance_level, rows.n) == ("value_gain", 0.0, 80)
    public = every["box-public-rows, public rows"]
    assert value(public) == 0.0
    assert value(rows) == pytest.approx(
        rows.extra_metrics["values_near"].value - public.extra_metrics["values_near"].value
    )
    assert "box-public-rows, leaves at random" in every


def test_of_numbers_the_label_of_single_rows_is_read() -> None:
    every = findings(data="diabetes", depth=6, attacks=[{"name": "leaf-counts"}, {"name": "boxes"}])
    assert value(every["leaf-counts"]) == 1.0
    assert every["leaf-counts"].extra_metrics["targets_exact"].value > 0.0
    assert every["the model"].metric == "trees_explained"
    assert "labels are numbers" in every["boxes"].failure


def test_defenses_close_one_way_each() -> None:
    stripped = findings(defense={"name": "strip-sums"})
    assert "covers of the trees were stripped" in stripped["leaf-counts"].failure
    assert value(stripped["thresholds"]) == 1.0
    public = findings(defense={"name": "public-cuts"})
    assert value(public["leaf-counts"]) == 1.0
    assert not public["thresholds"].is_above_chance or value(public["thresholds"]) < 0.5


def test_somebody_may_stop_it() -> None:
    with pytest.raises(KeyboardInterrupt):
        findings(QuestionContext(should_stop=lambda: True))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"attacks": [{"name": "leaf-counts"}] * 2}, "two attacks are reported as 'leaf-counts'. Set 'label' in"),
        ({"attacks": [{"name": "threshold"}]}, "no attack 'threshold'. Did you mean 'thresholds'"),
        ({"attacks": [{"name": "cut-norm"}]}, "cut-norm"),
        ({"defense": {"name": "leaf-sizes"}}, "no defense 'leaf-sizes'. Did you mean 'leaf-size'"),
        ({"depht": 3}, "Did you mean 'depth'"),
    ],
)
def test_a_mistake_in_its_table_is_named(table: Any, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        scenario(**table)


def test_what_would_stop_it_is_said_before_anything_is_trained() -> None:
    with pytest.raises(ScenarioError, match=r"Lower trees\.clients or trees\.rows"):
        findings(rows=400)


def test_it_says_what_the_server_sees() -> None:
    (question,) = build(scenario()).questions
    assert get("question", "trees").make is TreeQuestion
    (sentence,) = question.describe_attacker()
    assert "2 clients" in sentence


class Sprays:
    """Answers what the attack does, changed."""

    def __init__(self, method: MethodRunner, change: Callable[[Tensor, TreesView], Tensor]) -> None:
        self.method, self.change = method, change

    def call(self, function: Any, view: TreesView, **more: Any) -> Tensor:
        return self.change(self.method.call(function, view, **more), view)


def sprayed(change: Callable[[Tensor, TreesView], Tensor], **trees: Any) -> Finding:
    """Return the finding of the attack whose answers are changed."""

    @contextmanager
    def start(choice: Any, should_stop: Any) -> Any:
        with start_in_process(choice, should_stop) as method:
            yield Sprays(method, change)

    name = trees["attacks"][0]["name"]
    return findings(QuestionContext(starts=start), **trees)[name]


def wide(answer: Tensor, _view: TreesView) -> Tensor:
    """Return the labels of the boxes with one bound each that no value reaches."""
    boxes = RowBoxes.from_tensor(answer)
    low, high = torch.full_like(boxes.low, -torch.inf), torch.full_like(boxes.high, torch.inf)
    low[:, 0] = -1e30
    return RowBoxes(boxes.labels, low, high).to_tensor()


def unbounded(answer: Tensor, view: TreesView) -> Tensor:
    return torch.cat([wide(answer, view)[:, :1], wide(answer, view)[:, 1:].sign() * torch.inf], 1)


BOXES: dict[str, Any] = {"attacks": [{"name": "boxes", "tries": 1}], "trees": 3}


def test_as_many_boxes_as_rows_are_scored_and_one_more_is_refused() -> None:
    assert sprayed(lambda answer, _: answer[torch.arange(40) % len(answer)], **BOXES).failure == ""
    more = sprayed(lambda answer, _: answer[torch.arange(41) % len(answer)], **BOXES)
    assert (more.state, more.failure) == ("failed", "the answer has 41 boxes, expected at most 40.")


def test_boxes_that_hold_every_row_show_nothing() -> None:
    none = sprayed(unbounded, **BOXES)
    assert none.state == "failed"
    assert "40 of 40 boxes have no bound" in none.failure
    vague = sprayed(wide, **BOXES)
    assert value(vague) == vague.chance_level == 1.0
    assert vague.state == "withstood"


def test_all_public_rows_are_no_guess() -> None:
    public = {"attacks": [{"name": "box-public-rows", "tries": 1}], "trees": 3}
    more = sprayed(lambda _, view: view.public.double(), **public)
    assert "rows, expected at most 40" in more.failure
    assert sprayed(lambda _, view: view.public[:40].double(), **public).failure == ""


def test_a_value_is_listed_once_and_leaves_have_one_answer_each() -> None:
    twice = sprayed(lambda answer, _: torch.cat([answer, answer[:1]]), attacks=[{"name": "thresholds"}])
    assert "values, each listed once, expected at most" in twice.failure
    leaves = sprayed(lambda answer, _: answer[:1], attacks=[{"name": "leaf-counts"}])
    assert "the answer has shape (1, 2), expected (" in leaves.failure
