"""What a scenario names must fit its data and its model; who does not is named with the reason."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedsim.core.errors import ScenarioError
from fedsim.experiment.arm import check
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.scenario.compatibility import check_objectives

Build = Callable[..., Scenario]
TEXT: dict[str, Any] = {
    "data": {"name": "lee-news", "length": 8},
    "model": {"name": "tiny-llama"},
    "threat": {"knows": ["batch-size"]},
    "partition": {"scheme": "by-user"},
}


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"components": [{"name": "esimcse"}]}, "component 'esimcse' does not fit: it .*text"),
        (
            {"defenses": [{"name": "dp-sgd"}, {"name": "dp-sgd"}], "federation": {"sampling": "poisson"}},
            "defenses: two defenses clip per-example gradients",
        ),
        ({"aggregation": {"name": "product-mean"}}, "aggregation rule 'product-mean' does not fit: "),
        ({**TEXT, "defenses": [{"name": "mixup"}]}, "defense 'mixup' does not fit: it "),
        (
            {**TEXT, "audit": {"canaries": 10, "guesses": 2}},
            "audit: its canaries are images, and the examples are text",
        ),
        (
            {**TEXT, "threat": {"knows": ["labels"]}, "attacks": [{"name": "tag"}]},
            "the labels of a language model are the text itself",
        ),
    ],
)
def test_what_does_not_fit_is_named_before_the_first_round(
    scenario: Build, tables: dict[str, Any], message: str
) -> None:
    with pytest.raises(ScenarioError, match=message):
        check(worlds.build(scenario(**tables)))


def test_examples_without_labels_need_a_component_that_says_what_is_minimised_and_are_no_members(
    scenario: Build, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("".join(f"number {n},figure {n},{n % 6}\n" for n in range(40)))
    pairs: dict[str, Any] = {
        "data": {"name": "sentence-pairs", "path": str(path), "length": 12},
        "model": {"name": "tiny-encoder"},
        "federation": {"batch_size": 2},
        "threat": {"knows": ["batch-size"]},
    }
    with pytest.raises(ScenarioError, match="have no labels, so a component must define the client's loss"):
        worlds.build(scenario(**pairs)).check()
    esimcse = {**pairs, "components": [{"name": "esimcse"}]}
    worlds.build(scenario(**esimcse)).check()
    judged = {**esimcse, "membership": {"candidates": 4, "attacks": [{"name": "loss-threshold"}]}}
    with pytest.raises(ScenarioError, match="membership: the attacks use the loss of an example"):
        check(worlds.build(scenario(**judged)))


def test_two_components_cannot_both_say_what_is_minimised() -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

    stack = SimpleNamespace(objectives=(Named("one"), Named("other")))
    with pytest.raises(ScenarioError, match="components: one and other both define the client's loss"):
        check_objectives(stack)  # type: ignore[arg-type]
    check_objectives(SimpleNamespace(objectives=(Named("one"),)))  # type: ignore[arg-type]
