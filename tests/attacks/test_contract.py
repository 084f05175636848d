"""What every attack promises. Driven by the registry: a new file is covered without a change here."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
import torch

from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.hooks import Attack
from fedsim.core.types import Observation, Reconstruction, Step, Truth, Update
from fedsim.scenario.world import World

Watched = Callable[..., tuple[Observation, Truth, World]]
ATTACKS = registry.methods("attack")
ALL = ("labels", "masks", "batch-size", "dropout-rates", "input-statistics", "defenses", "components")


def short(name: str) -> Attack[Any]:
    """The attack with few iterations, steps in them and starts, where it has any."""
    method = ATTACKS[name]
    few = {
        k: n for k, n in {"max_iterations": 20, "inner": 4, "restarts": 1}.items() if k in method.config.model_fields
    }
    return method.make(method.config.model_validate(few))


def attacked(name: str, observation: Observation, seed: int = 1) -> Reconstruction:
    try:
        return short(name)(observation, seeding.generator(seed, "attack"))
    except NotApplicable as reason:
        pytest.skip(f"does not apply to a small MLP: {reason}")


@pytest.fixture(params=[1, 2], ids=["one", "two"])
def observation(request: pytest.FixtureRequest, name: str, watched: Watched) -> Observation:
    """Of a small MLP: changed by a malicious server, with known noise or mixed labels, if the attack takes that."""
    return watched(knows=ALL, federation={"batch_size": request.param}, **surroundings(name))[0]


def surroundings(name: str) -> dict[str, Any]:
    if "defenses" in ATTACKS[name].make.needs:  # type: ignore[attr-defined]
        return {"defenses": [{"name": "gradient-noise", "scale": 1e-3}]}
    if name == "prefix-search":
        return {"components": [{"name": "nested-dropout", "eta": 4.0}]}
    if "components" in ATTACKS[name].make.needs:  # type: ignore[attr-defined]
        model = {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.25}
        return {"model": model, "components": [{"name": "cutmix", "probability": 1.0}]}
    if not ATTACKS[name].make.crafts:  # type: ignore[attr-defined]
        return {}
    model = {"name": "mlp", "width": 64, "depth": 2, "dropout": 0.25, "bias": True, "activation": "relu"}
    return {"model": model, "threat": {"server": "malicious"}, "attacks": [{"name": name}]}


@pytest.mark.parametrize("name", ATTACKS)
def test_it_returns_examples_of_the_right_shape_and_no_more_than_there_are(name: str, observation: Observation) -> None:
    guess = attacked(name, observation)
    assert guess.inputs.shape[1:] == observation.spec.shape
    assert len(guess.inputs) == len(guess.labels) <= (observation.batch_size or 0)
    assert guess.inputs.flatten(1).any(1).all(), "a blank stands for an example that was not found"
    assert torch.isfinite(guess.inputs).all()
    assert not guess.inputs.requires_grad
    assert guess.stopped
    if guess.masks is not None:
        assert [tuple(mask.shape) for mask in guess.masks] == [site.shape for site in observation.sites]
        assert all(bool(((mask >= 0) & (mask <= 1)).all()) for mask in guess.masks)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_same_seed_gives_the_same_bytes_on_the_same_model_object(name: str, observation: Observation) -> None:
    first, second = attacked(name, observation), attacked(name, observation)
    assert torch.equal(first.inputs, second.inputs)
    assert first.objective == second.objective or first.objective != first.objective
    assert first.history == second.history


@pytest.mark.parametrize("name", ATTACKS)
def test_it_leaves_observed_weights_and_update_alone(
    name: str, observation: Observation, left_alone: Callable[[Observation], AbstractContextManager[None]]
) -> None:
    with left_alone(observation):
        attacked(name, observation)


@pytest.mark.parametrize("name", ATTACKS)
def test_it_reports_progress_in_order(name: str, observation: Observation) -> None:
    steps: list[Step] = []
    try:
        short(name)(observation, seeding.generator(1, "attack"), steps.append)
    except NotApplicable as reason:
        pytest.skip(f"does not apply to a small MLP: {reason}")
    assert [step.iteration for step in steps] == sorted(step.iteration for step in steps)
    assert all(step.iteration <= step.iterations for step in steps)


@pytest.mark.parametrize("name", [n for n, m in ATTACKS.items() if m.make.needs])  # type: ignore[attr-defined]
def test_it_refuses_to_run_without_the_knowledge_it_needs(name: str, watched: Watched) -> None:
    observation, _, _ = watched(knows=("labels",))
    with pytest.raises(NotApplicable, match="needs the threat model to grant"):
        short(name)(observation, seeding.generator(1, "attack"))


def tampered(update: Update, **changes: torch.Tensor | None) -> Update:
    tensors = {key.replace(".", "_"): key for key in update.tensors}
    new = dict(update.tensors)
    for key, value in changes.items():
        if value is None:
            del new[tensors[key]]
        else:
            new[tensors.get(key, key)] = value
    return replace(update, tensors=new)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"1_weight": None}, "lacks 1 tensors of the model, first '1.weight'"),
        ({"1_weight": torch.zeros(2, 2)}, r"'1.weight' has shape \(2, 2\), expected"),
        ({"1_weight": torch.full((24, 64), torch.nan)}, "'1.weight' of the update holds values that are not finite"),
        ({n: torch.zeros(s) for n, s in (("1_weight", (24, 64)), ("4_weight", (24, 24)), ("7_weight", (10, 24)))},
         "every tensor of the update is zero"),
        ({"stranger": torch.zeros(2)}, "holds 1 tensors that the model does not train, first 'stranger'"),
    ],
)  # fmt: skip
def test_a_malformed_update_is_one_clear_sentence(
    name: str, change: dict[str, torch.Tensor | None], message: str, watched: Watched
) -> None:
    observation, _, _ = watched(knows=ALL)
    bad = replace(observation, update=tampered(observation.update, **change))
    with pytest.raises(FedsimError, match=message):
        short(name)(bad, seeding.generator(1, "attack"))


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(
    ("labels", "message"), [([10], "label 10 is out of range, expected 0 to 9"), ([1, 2], "2 labels")]
)
def test_impossible_labels_are_one_clear_sentence(name: str, labels: list[int], message: str, watched: Watched) -> None:
    observation, _, _ = watched(knows=ALL)
    with pytest.raises(FedsimError, match=message):
        short(name)(replace(observation, labels=torch.tensor(labels)), seeding.generator(1, "attack"))


@pytest.mark.parametrize("name", ATTACKS)
def test_it_works_on_what_is_shared_or_says_why_not(name: str, watched: Watched) -> None:
    for shares in (("1.*",), ("7.*",)):
        observation, _, _ = watched(knows=ALL, threat={"shares": shares})
        try:
            guess = short(name)(observation, seeding.generator(1, "attack"))
        except NotApplicable:
            continue
        assert torch.isfinite(guess.inputs).all()
