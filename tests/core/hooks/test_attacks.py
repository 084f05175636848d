"""What an attack is asked before it searches, and what an update must be."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.hooks import Attack, Grants, check_update
from fedsim.core.hooks.attacks import CostEstimate, without_unreliable_tensors
from fedsim.core.types import Config, Knowledge, MethodDescription, Observation, OnStep, Reconstruction, View
from fedsim.core.types.effects import UnreliableTensors
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.types import Target

Watched = Callable[..., tuple[Observation, Any, Any]]
GRANTS = Grants(frozenset({"labels"}), "single-update", may_craft=False, masks_updates=False, is_attacked=True)


class Plain(Attack[Config]):
    """Guesses black pictures."""

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        guess = torch.zeros(1, *observation.spec.shape)
        return Reconstruction(guess, torch.zeros(1, dtype=torch.long), None, 0.0, 1, 1, (), "done")


class Knowing(Plain):
    """Needs masks."""

    needs: ClassVar[frozenset[Knowledge]] = frozenset({"masks", "labels"})


class Summing(Plain):
    """Works on sums alone."""

    views: ClassVar[frozenset[View]] = frozenset({"sum"})


class Crafting(Plain):
    """Changes the model."""

    crafts_model: ClassVar[bool] = True


class Choosy(Plain):
    """Has a reason of its own."""

    def not_applicable(self, observation: Observation) -> str | None:
        return "it is Friday"


@pytest.mark.parametrize(
    ("attack", "grants", "reason"),
    [
        (Plain, GRANTS, None),
        (Knowing, GRANTS, r"needs masks, which the threat model does not grant. Add also_knows = \['masks'\]"),
        (Knowing, replace(GRANTS, knows=frozenset({"labels", "masks"})), None),
        (Summing, GRANTS, "works on sum, but threat.view = 'single-update'"),
        (Crafting, GRANTS, "changes the model that clients receive, which an honest server does not"),
        (Crafting, replace(GRANTS, may_craft=True), None),
    ],
)
def test_a_class_says_what_its_scenario_must_grant(attack: type[Plain], grants: Grants, reason: str | None) -> None:
    told = attack.missing_grants(grants)
    assert (told is None) == (reason is None)
    if reason is not None:
        with pytest.raises(FedsimError, match=reason):
            raise FedsimError(told)


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (Knowing, "needs the threat model to grant masks"),
        (Summing, "works on sum, but the server sees single-update"),
        (Crafting, "needs a malicious server"),
        (Choosy, "it is Friday"),
    ],
)
def test_an_attack_that_does_not_fit_says_why_and_does_not_search(
    watched: Watched, attack: type[Plain], reason: str
) -> None:
    observation, _, _ = watched()
    own = attack(Config())
    verdict = own.applicable(observation)
    assert not verdict.holds
    assert reason in verdict.reason
    with pytest.raises(NotApplicable, match=reason):
        own(observation, torch.Generator())
    with pytest.raises(NotApplicable, match=reason):
        own.together([observation], [torch.Generator()], [lambda _step: None])


def test_several_observations_are_searched_one_by_one_unless_an_author_says_more(watched: Watched) -> None:
    observation, _, _ = watched()
    own = Plain(Config())
    assert own.applicable(observation).holds
    assert own.max_victims(observation) == 1
    guesses = own.together([observation] * 2, [torch.Generator()] * 2, [lambda _step: None] * 2)
    assert len(guesses) == 2
    with pytest.raises(NotApplicable, match="does not go on from guesses of other attacks"):
        own.search_from(observation, guesses[0], torch.Generator(), lambda _step: None)


def test_of_several_attacks_the_one_with_the_cheapest_exact_answer_goes_first() -> None:
    hopeless, cheap, dear = (CostEstimate(*own, "") for own in ((1.0, 0.0), (2.0, 1.0), (2.0, 0.5)))
    assert sorted([hopeless, dear, cheap], key=lambda own: own.price) == [cheap, dear, hopeless]


def test_only_reference_attacks_need_no_outlook_and_no_twin() -> None:
    assert Plain.effort == "reference"  # `auto` does not try it
    assert Plain.settings_for_budget(100) == {}
    assert Plain(Config()).same_search(None) is None  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="must state its outlook"):
        Plain(Config()).outlook(None)  # type: ignore[arg-type]


Spoil = Callable[[dict[str, Tensor]], Any]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda own: own.pop("1.weight"), "the update lacks 1 tensors of the model, first '1.weight'"),
        (lambda own: own.update({"1.wieght": torch.ones(1)}), "first '1.wieght'. Did you mean '1.weight'"),
        (lambda own: own.update({"1.weight": torch.ones(2)}), r"'1.weight' has shape \(2,\), expected \(24, 64\)"),
        (lambda own: own["1.weight"].view(-1)[3:4].fill_(torch.nan), "'1.weight' of the update holds values that are"),
        (lambda own: own["1.weight"].view(-1)[3:4].fill_(torch.inf), "'1.weight' of the update holds values that are"),
        (lambda own: [tensor.zero_() for tensor in own.values()], "every tensor of the update is zero"),
    ],
)
def test_an_update_that_is_not_the_models_is_refused(watched: Watched, spoil: Spoil, message: str) -> None:
    observation, _, _ = watched()
    tensors = {name: tensor.clone() for name, tensor in observation.update.tensors.items()}
    spoil(tensors)
    with pytest.raises(FedsimError, match=message):
        check_update(replace(observation, update=replace(observation.update, tensors=tensors)))


def test_tensors_that_are_hidden_may_lack_and_labels_must_be_one_an_example(watched: Watched) -> None:
    observation, _, _ = watched()
    tensors = dict(observation.update.tensors)
    del tensors["1.weight"]
    update = replace(observation.update, tensors=tensors)
    check_update(replace(observation, update=update, hidden_parameters=frozenset({"1.weight"})))
    with pytest.raises(FedsimError, match="2 labels were returned, expected a label per example: 1"):
        check_update(replace(observation, labels=torch.zeros(2, dtype=torch.long)))
    with pytest.raises(FedsimError, match="10"):
        check_update(replace(observation, labels=torch.full((1,), 10)))


class Own(MembershipAttack[Config]):
    """Returns the scores that it was given."""

    found: Tensor

    def score(self, observation: Any, generator: torch.Generator) -> Tensor:
        return self.found


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(3), r"the scores have shape \(3,\), expected a score per candidate: \(2,\)"),
        (torch.tensor([0.0, torch.nan]), "a score is not a number"),
    ],
)
def test_membership_needs_one_number_a_candidate(scores: Tensor, message: str) -> None:
    own = Own(Config())
    own.found = scores
    seen: Any = SimpleNamespace(task=SimpleNamespace(refuses_method=lambda _method: None), candidates=[0, 1])
    with pytest.raises(FedsimError, match=message):
        own(seen, torch.Generator())
    own.found = torch.tensor([-torch.inf, 1.0], requires_grad=True)
    assert not own(seen, torch.Generator()).requires_grad


@pytest.mark.parametrize(("target", "sees", "fits"), [("model", "sum", True), ("updates", "sum", False)])
def test_whoever_judges_updates_needs_single_ones(target: Target, sees: View, fits: bool) -> None:
    class Judging(Own):
        pass

    Judging.target = target
    assert (Judging.missing_grants(replace(GRANTS, view=sees)) is None) is fits
    assert Judging.missing_grants(GRANTS) is None


def knowing(observation: Observation, *unreliable: str) -> Observation:
    return replace(observation, known_methods=(MethodDescription("own", (UnreliableTensors(unreliable),)),))


def test_what_deserves_no_trust_counts_as_hidden(watched: Callable[..., Any]) -> None:
    observation, _, _ = watched()
    first, *rest = observation.update.tensors
    found = without_unreliable_tensors(knowing(observation, first, "no such tensor"))
    assert list(found.update.tensors) == rest
    assert found.hidden_parameters == observation.hidden_parameters | {first}
    assert found.unreliable_tensors[first] is observation.update.tensors[first]


def test_where_nothing_or_everything_is_named_the_observation_is_the_same(watched: Callable[..., Any]) -> None:
    observation, _, _ = watched()
    assert without_unreliable_tensors(observation) is observation
    for names in ((), ("no such tensor",), tuple(observation.update.tensors)):
        own = knowing(observation, *names)
        assert without_unreliable_tensors(own) is own
