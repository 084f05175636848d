"""Whether a method fits the scenario that names it."""

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from fedsim.core import registry
from fedsim.core.choices import Choice
from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.hooks import ConfiguredMethod
from fedsim.core.registry import Kind
from fedsim.core.types import Config
from fedsim.scenario import AttackChoice, Scenario, parse
from fedsim.scenario.checks import check_choice, check_crafting, check_scoring, find

Build = Callable[..., Scenario]


def checked(scenario: Scenario, kind: Any, choice: Choice, *place: str | int) -> None:
    check_choice(find(kind, choice), place, choice, scenario)


@pytest.mark.parametrize(
    ("name", "place", "message"),
    [
        ("sgd", ("components", 0), "'sgd' is an optimizer: set federation.optimizer instead"),
        ("dropout", ("federation", "optimizer"), "'dropout' is a component for hook layer, expected an optimizer"),
        (
            "greedy",
            ("components", 1),
            "'greedy' is a decoder, which runs on a trained model.*fedsim.generation.generate",
        ),
        ("greedy", ("components", 1), r"or, if clients train a language model, to the table \[generation\]\.$"),
        ("fixed", ("components", 1), r"or, if clients train a masked language model, to the table \[generation\]\.$"),
        ("heun", ("components", 1), r"or, if clients train a denoiser, to the table \[generation\]\.$"),
        ("trace-padding", ("components", 1), r"or, if clients train a language model, to an attack of the table \["),
    ],
)
def test_a_component_stands_where_its_hook_is_run(
    scenario: Build, name: str, place: tuple[str | int, ...], message: str
) -> None:
    with pytest.raises(FedsimError, match=message):
        checked(scenario(), "component", Choice(name=name), *place)


STEPPING = {"algorithm": "fedavg", "local_steps": 2}


@pytest.mark.parametrize(
    ("federation", "arms", "is_refused"),
    [
        ({"optimizer": {"name": "adam"}}, {}, True),
        ({"optimizer": {"name": "sgd", "learning_rate": 0.2}}, {}, True),
        ({"optimizer": {"name": "sgd", "learning_rate": 0.1}}, {}, False),
        ({**STEPPING, "optimizer": {"name": "adam"}}, {}, False),
        ({"optimizer": {"name": "adam"}}, {"group": {"b": {"federation.algorithm": "fedavg"}}}, False),
        ({"optimizer": {"name": "adam"}}, {"federation.algorithm": ["fedavg"]}, False),
        ({"optimizer": {"name": "adam"}}, {"federation.algorithm": ["fedavg", "fedsgd"]}, True),
        ({}, {"federation.optimizer": [{"name": "sgd"}, {"name": "adam"}]}, True),
    ],
)
def test_an_optimizer_of_clients_that_take_no_step_is_refused(
    federation: dict[str, Any], arms: dict[str, Any], is_refused: bool
) -> None:
    tables = {"title": "t", "data": {"name": "digits"}, "model": {"name": "mlp"}, "federation": federation}
    if not is_refused:
        parse({**tables, "arms": arms}, "test")
        return
    with pytest.raises(ScenarioError, match=r"federation.optimizer.name: .* 'fedsgd' .* take no step, .* no effect"):
        parse({**tables, "arms": arms}, "test")


class Answers(ConfiguredMethod[Config]):
    """The base class of one question's attacks."""


class AnswersElse(ConfiguredMethod[Config]):
    """That of another question."""


class TypedChoice(Choice):
    """A method of any question."""

    base: ClassVar[type[Any]] = ConfiguredMethod


class AnswerChoice(Choice):
    """An attack of the first question."""

    kind: ClassVar[Kind | None] = "attack"
    base: ClassVar[type[Any]] = Answers


def test_an_attack_on_evidence_answers_the_question_that_names_it(scenario: Build) -> None:
    with registry.temporary():
        for name, base in (("fits", Answers), ("fits-else", AnswersElse)):
            registry.attack(name, summary="answers")(base)
        checked(scenario(), "attack", AnswerChoice(name="fits"), "questions", "a")
        for name in ("fits-else", "dlg", "lira"):
            with pytest.raises(FedsimError, match=rf"attack '{name}' has another purpose. Expected any of: fits\.$"):
                checked(scenario(), "attack", AnswerChoice(name=name), "questions", "a")


@pytest.mark.parametrize(("kind", "name"), [("attack", "lira"), ("attack", "boxes"), ("defense", "marvell")])
def test_a_method_of_a_question_is_refused_among_the_methods_on_updates(kind: Kind, name: str) -> None:
    with pytest.raises(FedsimError, match=f"{kind} '{name}' has another purpose. Expected any of: "):
        find(kind, Choice(name=name))
    assert registry.get(kind, name) is find(kind, TypedChoice(name=name))


def test_what_an_attack_knows_beyond_the_threat_model_counts(scenario: Build) -> None:
    bare = scenario(threat={"knows": ["labels", "batch-size"]})
    wiig = AttackChoice(name="wiig", settings={})
    with pytest.raises(FedsimError, match="'wiig' needs dropout-rates, masks, which the threat model does not grant"):
        checked(bare, "attack", wiig, "attacks", 0)
    checked(bare, "attack", wiig.model_copy(update={"also_knows": ("dropout-rates", "masks")}), "attacks", 0)


def test_a_server_may_craft_where_it_is_malicious_or_where_arms_make_it_so(scenario: Build) -> None:
    trap = AttackChoice(name="trap-weights", settings={})
    with pytest.raises(FedsimError, match="Set threat.server = 'malicious'"):
        checked(scenario(), "attack", trap, "attacks", 0)
    malicious = {"server": "malicious"}
    checked(scenario(threat=malicious, attacks=[{"name": "trap-weights"}]), "attack", trap, "attacks", 0)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["inverting-gradients"], "none of the attacks does"),
        (["trap-weights", "robbing-the-fed"], "trap-weights, robbing-the-fed all do"),
    ],
)
def test_a_malicious_server_changes_the_model_in_exactly_one_way(scenario: Build, names: list[str], found: str) -> None:
    honest = scenario()
    changed = honest.model_copy(
        update={
            "threat": honest.threat.model_copy(update={"server": "malicious"}),
            "attacks": tuple(AttackChoice(name=name, settings={}) for name in names),
        }
    )
    with pytest.raises(ScenarioError, match=f"here: threat.server is 'malicious'.*{found}.*trap-weights"):
        check_crafting(changed, "here")
    check_crafting(honest, "here")
    check_crafting(changed.model_copy(update={"attacks": (AttackChoice(name="trap-weights", settings={}),)}), "here")


def test_a_metric_that_decides_is_right_and_others_are_told_which_ones_can() -> None:
    def scoring(metric: str) -> Scenario:
        own = parse({"title": "t", "model": {"name": "mlp"}}, "s")
        return own.model_copy(update={"scoring": own.scoring.model_copy(update={"metric": metric})})

    assert check_scoring(scoring("psnr")) == []
    (told,) = check_scoring(scoring("test_accuracy"))
    assert told.startswith("scoring.metric: 'test_accuracy' cannot decide; ")
    assert "psnr" in told
    (unknown,) = check_scoring(scoring("pnsr"))
    assert "Did you mean 'psnr'?" in unknown
