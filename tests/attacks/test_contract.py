"""What every attack promises, on its own small example. Driven by the registry: a new file needs no change here."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any, get_args

import pytest
import torch

from fedsim.core import registry, seeding
from fedsim.core.candidates import TRIED_EFFORTS, rank_candidates
from fedsim.core.denoisers import save_denoiser
from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.hooks import Attack
from fedsim.core.types import InputSpec, Knowledge, Observation, Reconstruction, Step, Update, WireEntry
from fedsim.federation.client import local_training
from fedsim.models.edm_unet import EdmUnetConfig, edm_unet
from fedsim.scenario import parse
from fedsim.scenario import world as worlds
from fedsim.scenario.example import example_of, with_tables
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim
from tests.attacks.solving import left_alone, sending

ATTACKS = registry.methods("attack", Attack)
TRIED = [name for name, own in ATTACKS.items() if own.tier != "baseline" and own.make.effort in TRIED_EFFORTS]  # type: ignore[attr-defined]
EVERYTHING: tuple[Knowledge, ...] = get_args(Knowledge)


def sizes(name: str) -> tuple[int, ...]:
    """Batch sizes on which an attack is tried: that of its example, or one and two."""
    own = ATTACKS[name].make.example.get("federation", {})  # type: ignore[attr-defined]
    return (own["batch_size"],) if "batch_size" in own else (1, 2)


def is_slow(name: str, size: int) -> bool:
    """Whether a quicker test says as much: a further batch size, or a walk through the eight blocks of a ResNet-18."""
    model = ATTACKS[name].make.example.get("model", {})  # type: ignore[attr-defined]
    return size != sizes(name)[0] or model.get("name") == "resnet18"


CASES = [
    pytest.param(name, size, id=f"{name}-{size}", marks=pytest.mark.slow if is_slow(name, size) else ())
    for name in ATTACKS
    for size in sizes(name)
]
on_its_example = pytest.mark.parametrize(("name", "size"), CASES)


@pytest.fixture(scope="module", autouse=True)
def small_denoiser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache that holds an untrained denoiser of the name that attacks ask for, which takes minutes to train."""
    settings, spec = {"width": 8, "blocks": 1}, InputSpec((1, 8, 8), 10, (0.3,), (0.4,))
    cached = tmp_path_factory.mktemp("cache")
    folder = cached / "digits-unet-0"
    folder.mkdir()
    with seeding.isolate_randomness(0):
        save_denoiser(edm_unet(EdmUnetConfig.model_validate(settings), spec), settings, spec, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDSIM_CACHE", str(cached))
        yield


@cache
def victims(name: str, size: int) -> tuple[Victim, ...]:
    """The same client's update in every attacked round of the attack's example, from the first weights."""
    tables = example_of(ATTACKS[name])
    world = worlds.build(parse(with_tables(tables, {"federation": {"batch_size": size}}), "example"))
    world.check()
    first = world.models.first_weights
    found = []
    for number in world.scenario.threat.rounds:
        update, truth = local_training(world, first, number, 0)
        found.append(Victim(world, WireEntry(number, 0, first, update), truth))
    return tuple(found)


@cache
def seen(name: str, size: int) -> Observation:
    """What an attacker who knows everything sees. Attacks leave it as it is, so that they can share it."""
    *earlier, last = victims(name, size)
    tells = last.world.task.knowable
    known = [own for own in EVERYTHING if own in tells or own not in ("labels", "input-statistics")]
    return observe(last, known, earlier)


@cache
def of_an_mlp() -> Observation:
    """What an attacker who knows everything sees of the small MLP."""
    return seen("closed-form-linear", 1)


def settings_of(name: str) -> dict[str, Any]:
    """The settings of an attack's example, and few iterations, steps in them and starts, where it has any."""
    method = ATTACKS[name]
    fewest = {"max_iterations": 10, "mask_iterations": 10, "inner": 4, "restarts": 1}
    few = {key: count for key, count in fewest.items() if key in method.config.model_fields}
    own = method.make.example.get("attacks", [{}])[0]  # type: ignore[attr-defined]
    return {**few, **own}


def short(name: str) -> Attack[Any]:
    method = ATTACKS[name]
    return method.make(method.config.model_validate(settings_of(name)))


def shortest(name: str) -> Attack[Any]:
    """The attack with two iterations, where it has any: enough to see whether it works at all."""
    method, settings = ATTACKS[name], settings_of(name)
    fewest = {key: 2 for key in ("max_iterations", "mask_iterations") if key in settings}
    return method.make(method.config.model_validate({**settings, **fewest}))


def attack(name: str, observation: Observation, on_step: Callable[[Step], None] = lambda _: None) -> Reconstruction:
    return short(name)(observation, seeding.generator(1, "attack"), on_step)


@cache
def attacked(name: str, size: int) -> tuple[Reconstruction, tuple[Step, ...]]:
    """The guess on the attack's own example, and the steps on the way to it."""
    steps: list[Step] = []
    return attack(name, seen(name, size), steps.append), tuple(steps)


@on_its_example
def test_it_returns_examples_of_the_right_shape_and_no_more_than_there_are(name: str, size: int) -> None:
    (guess, _), observation = attacked(name, size), seen(name, size)
    assert guess.inputs.shape[1:] == observation.spec.shape
    assert len(guess.inputs) == len(guess.labels) <= (observation.examples or 0)
    assert guess.inputs.flatten(1).any(1).all(), "a blank stands for an example that was not found"
    assert torch.isfinite(guess.inputs).all()
    assert not guess.inputs.requires_grad
    assert guess.stop_reason
    if guess.masks is not None:
        assert [tuple(mask.shape) for mask in guess.masks] == [site.shape for site in observation.sites]
        assert all(bool(((mask >= 0) & (mask <= 1)).all()) for mask in guess.masks)


@on_its_example
def test_once_more_with_the_same_seed_it_gives_the_same_bytes_and_leaves_weights_and_update_alone(
    name: str, size: int
) -> None:
    first, _ = attacked(name, size)
    with left_alone(seen(name, size)):
        second = attack(name, seen(name, size))
    assert torch.equal(first.inputs, second.inputs)
    assert first.objective == second.objective or first.objective != first.objective
    assert first.history == second.history


@on_its_example
def test_it_reports_progress_in_order(name: str, size: int) -> None:
    _, steps = attacked(name, size)
    assert [step.iteration for step in steps] == sorted(step.iteration for step in steps)
    assert all(step.iteration <= step.iterations for step in steps)


@pytest.mark.parametrize("name", ATTACKS)
def test_it_fits_its_example_with_what_that_grants(name: str) -> None:
    """This is the scenario that `fedsim show` prints."""
    *earlier, last = victims(name, sizes(name)[0])
    scenario = last.world.scenario
    granted = observe(last, {*scenario.threat.knows, *scenario.attacks[0].also_knows}, earlier)
    assert short(name).fits(granted) == (True, "")


@pytest.mark.parametrize("name", TRIED)
def test_it_states_seconds_a_chance_and_a_reason(name: str) -> None:
    estimate = short(name).outlook(seen(name, sizes(name)[0]))
    assert 0.0 < estimate.seconds < math.inf
    assert 0.0 < estimate.chance <= 1.0
    assert estimate.reason
    assert "\n" not in estimate.reason


@pytest.mark.parametrize("name", TRIED)
def test_no_two_attacks_of_an_effort_tie_on_its_example(name: str) -> None:
    observation = seen(name, sizes(name)[0])
    ranked = [
        own for undoing in (False, True) for own in rank_candidates(observation, 200, inverts_augmentation=undoing)
    ]
    assert not [candidate.failure for candidate in ranked if candidate.failure]
    places = Counter((candidate.attack.effort, candidate.price) for candidate in ranked)
    tied = [own.name for own in ranked if places[own.attack.effort, own.price] > 1]
    assert not tied


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIED)
def test_stated_seconds_are_within_a_factor_of_five_of_the_measured_ones(name: str) -> None:
    """Processor seconds of a second run, so that imports count in neither; less than 20 ms count as 20 ms."""
    observation = seen(name, sizes(name)[0])
    stated = short(name).outlook(observation).seconds
    attack(name, observation)
    begin = time.process_time()
    attack(name, observation)
    measured = time.process_time() - begin
    assert max(stated, 0.02) <= 5 * max(measured, 0.02), f"stated {stated:.3g} s, measured {measured:.3g} s"
    assert max(measured, 0.02) <= 5 * max(stated, 0.02), f"stated {stated:.3g} s, measured {measured:.3g} s"


def texts(table: Any) -> Iterator[str]:
    """Every text in tables and lists, at any depth."""
    if isinstance(table, str):
        yield table
    elif isinstance(table, dict | list | tuple):
        for part in table.values() if isinstance(table, dict) else table:
            yield from texts(part)


@pytest.mark.parametrize("name", ATTACKS)
def test_its_example_names_no_module_that_a_wheel_lacks(name: str) -> None:
    """A scenario names a function as `module:function`."""
    modules = {text.partition(":")[0].partition(".")[0] for text in texts(example_of(ATTACKS[name])) if ":" in text}
    assert modules <= {"fedsim", "attacks", "defenses"}


@pytest.mark.parametrize("name", [n for n, m in ATTACKS.items() if m.make.needs])  # type: ignore[attr-defined]
def test_it_refuses_to_run_without_the_knowledge_it_needs(name: str) -> None:
    observation = seen(name, sizes(name)[0])
    with pytest.raises(NotApplicable, match="needs the threat model to grant"):
        attack(name, replace(observation, threat=observation.threat.model_copy(update={"knows": ("labels",)})))


def tampered(update: Update, **changes: torch.Tensor | None) -> Update:
    tensors = {key.replace(".", "_"): key for key in update.tensors}
    new = dict(update.tensors)
    for key, value in changes.items():
        if value is None:
            del new[tensors[key]]
        else:
            new[tensors.get(key, key)] = value
    return replace(update, tensors=new)


MALFORMED: tuple[tuple[dict[str, torch.Tensor | None], str], ...] = (
    ({"1_weight": None}, "lacks 1 tensors of the model, first '1.weight'"),
    ({"1_weight": torch.zeros(2, 2)}, r"'1.weight' has shape \(2, 2\), expected"),
    ({"1_weight": torch.full((24, 64), torch.nan)}, "'1.weight' of the update holds values that are not finite"),
    ({n: torch.zeros(s) for n, s in (("1_weight", (24, 64)), ("4_weight", (24, 24)), ("7_weight", (10, 24)))},
     "every tensor of the update is zero"),
    ({"stranger": torch.zeros(2)}, "holds 1 tensors that the model does not train, first 'stranger'"),
)  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_a_malformed_update_and_impossible_labels_are_one_clear_sentence(name: str) -> None:
    observation = of_an_mlp()
    for change, message in MALFORMED:
        with pytest.raises(FedsimError, match=message):
            attack(name, replace(observation, update=tampered(observation.update, **change)))
    for labels, message in (([10], "label 10 is out of range, expected 0 to 9"), ([1, 2], "2 labels")):
        with pytest.raises(FedsimError, match=message):
            attack(name, replace(observation, labels=torch.tensor(labels)))


def with_only(name: str, observation: Observation) -> Observation:
    """An observation of which the server sees one tensor."""
    tensors = observation.update.tensors
    return sending(
        observation,
        {name: tensors[name]},
        hidden_parameters=frozenset(tensors.keys() - {name}),
        earlier_observations=tuple(with_only(name, before) for before in observation.earlier_observations),
    )


@pytest.mark.parametrize("name", ATTACKS)
def test_it_works_on_what_is_shared_or_says_why_not(name: str) -> None:
    observation = seen(name, sizes(name)[0])
    informative = [key for key, tensor in observation.update.tensors.items() if tensor.any()]
    for shared in (informative[0], informative[-1]):
        try:
            guess = shortest(name)(with_only(shared, observation), seeding.generator(1, "attack"), lambda _: None)
        except NotApplicable:
            continue
        assert torch.isfinite(guess.inputs).all()
