"""Attackers who know the defense see more than those who do not; and nobody calls a disturbed update exact."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from attacks.core.defense_facts import Wire, adds_noise, bound_of, inexact, noise_of, wire_of
from attacks.core.gradient_distance import gradient_distance
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks.attacks import without_unreliable_tensors
from fedsim.core.types import MethodDescription, Observation, ThreatModel
from fedsim.core.types.effects import (
    AddedNoise,
    Clipped,
    ClippedParts,
    Effect,
    Noise,
    PrivateNoise,
    Rounded,
    Sparsified,
    UnreliableTensors,
)
from fedsim.metrics.image import score_items
from tests.attacks.solving import attacked, observed, sending
from tests.federating import watched

KNOWN = ("labels", "batch-size", "dropout-rates", "input-statistics")
PLAIN = {"name": "mlp", "width": 24, "depth": 2, "dropout": 0.0}
EXACT = ("closed-form-linear", "mask-readout", "r-gap", "spear", "sparse-dictionary", "span-intersection")
DISTURBING: tuple[dict[str, Any], ...] = (
    {"name": "sign"},
    {"name": "sign", "scaled": True},
    {"name": "float16"},
    {"name": "qsgd", "levels": 4},
    {"name": "quantisation", "bits": 4},
    {"name": "gradient-noise", "scale": 1e-3},
    {"name": "pruning", "rate": 0.99},
    {"name": "random-pruning", "rate": 0.5},
    {"name": "grad-defense"},
    {"name": "outpost"},
)


def test_unreliable_tensors_are_set_aside_for_every_attack_and_for_auto() -> None:
    observation, _, _ = watched(model={**PLAIN, "bias": True}, knows=KNOWN)
    garbage = torch.full_like(observation.update.tensors["7.weight"], 5.0)
    update = replace(observation.update, tensors={**observation.update.tensors, "7.weight": garbage})
    told = replace(
        observation,
        update=update,
        known_methods=(MethodDescription("any", (UnreliableTensors(("7.weight", "none")),)),),
    )
    bare = replace(
        observation,
        update=replace(update, tensors={n: t for n, t in update.tensors.items() if n != "7.weight"}),
        hidden_parameters=frozenset({"7.weight"}),
    )
    for name, settings in (
        ("inverting-gradients", {"max_iterations": 10}),
        ("closed-form-linear", {}),
        ("dlg", {"max_iterations": 2}),
    ):
        ours, theirs = (attacked(name, one, **settings) for one in (told, bare))
        assert torch.equal(ours.inputs, theirs.inputs)
        assert ours.objective == theirs.objective
    few: dict[str, Any] = {"max_iterations": 10, "mask_iterations": 5, "leave_out": ("closed-form-linear",)}
    ours, theirs = (attacked("auto", one, **few) for one in (told, bare))
    assert torch.equal(ours.inputs, theirs.inputs)
    assert set(told.update.tensors) == set(observation.update.tensors)  # what was observed stays as it was


def test_where_everything_is_unreliable_nothing_is_left_out() -> None:
    observation, _, _ = watched(knows=KNOWN)
    names = tuple(observation.update.tensors)
    told = replace(observation, known_methods=(MethodDescription("any", (UnreliableTensors(names),)),))
    assert without_unreliable_tensors(told) is told
    assert without_unreliable_tensors(observation) is observation


def test_being_informed_twice_is_being_informed_once() -> None:
    observation, _, _ = watched(knows=(*KNOWN, "defenses"), defenses=[{"name": "soteria"}], model=PLAIN)
    once = without_unreliable_tensors(observation)
    twice = without_unreliable_tensors(once)
    assert once.hidden_parameters == twice.hidden_parameters == {"7.weight"}
    assert once is twice


def test_the_soft_sign_of_the_truth_points_where_the_signs_do() -> None:
    observation, truth, _ = watched(knows=(*KNOWN, "defenses"), model=PLAIN, defenses=[{"name": "sign"}])
    assert wire_of(observation) == Wire(only_signs=True)
    assert wire_of(replace(observation, threat=ThreatModel(view="sum"))) == Wire()
    batch = truth.batches[0]
    told = gradient_distance(observation, batch.inputs, batch.labels, ())
    naive = gradient_distance(replace(observation, known_methods=()), batch.inputs, batch.labels, ())
    assert told < 0.5 * naive


def test_the_soft_sign_does_not_depend_on_the_scale_and_has_slopes() -> None:
    wire = Wire(only_signs=True)
    gradient = torch.randn(50, dtype=torch.float64).requires_grad_()
    soft = wire.as_sent(gradient, gradient.sign())
    assert torch.allclose(soft, wire.as_sent(1e-6 * gradient, gradient.sign()))
    assert torch.equal(soft.sign(), gradient.sign())
    assert bool(torch.autograd.grad(soft.sum(), gradient)[0].any())
    assert not wire.as_sent(torch.zeros(3), torch.ones(3)).any()
    assert torch.equal(wire.as_compared(torch.tensor([-0.3, 0.0, 2.0])), torch.tensor([-1.0, 0.0, 1.0]))


def test_of_several_steps_what_was_sent_is_compared_too() -> None:
    fedavg = {"algorithm": "fedavg", "local_steps": 2, "batch_size": 1}
    defenses = [{"name": "pruning", "rate": 0.8, "applies": "per_update"}]
    naive, told = (
        attacked("fedavg-inversion", watched(knows=(*KNOWN, *k), federation=fedavg, model=PLAIN, defenses=defenses)[0],
                 max_iterations=60)
        for k in ((), ("defenses",))
    )  # fmt: skip
    assert told.objective < 0.7 * naive.objective


@pytest.mark.parametrize("defense", DISTURBING, ids=lambda d: "-".join(map(str, d.values())))
@pytest.mark.parametrize("knows", [(), ("defenses",)], ids=["naive", "informed"])
@pytest.mark.parametrize(
    ("batch_size", "bias"),
    [
        (1, True),
        (2, False),
        pytest.param(1, False, marks=pytest.mark.slow),
        pytest.param(2, True, marks=pytest.mark.slow),
    ],
)
def test_no_attack_calls_a_disturbed_update_exact(
    defense: dict[str, Any], knows: tuple[str, ...], batch_size: int, bias: bool
) -> None:
    model = {"name": "mlp", "width": 48, "depth": 2, "dropout": 0.0, "activation": "relu", "bias": bias}
    observation, _, _ = watched(
        knows=(*KNOWN, *knows), model=model, defenses=[defense], federation={"batch_size": batch_size}
    )
    if knows:
        assert inexact(observation) is not None
    for name in EXACT:
        try:
            guess = attacked(name, observation, **({"draws": 2000} if name == "spear" else {}))
        except NotApplicable:
            continue
        assert not guess.is_exact
        if knows and name == "closed-form-linear":
            assert any("do not hold exactly" in note for note in guess.notes)


@pytest.mark.parametrize("defense", DISTURBING, ids=lambda d: "-".join(map(str, d.values())))
def test_no_vision_transformer_is_called_exact_either(defense: dict[str, Any]) -> None:
    model = {"name": "vit-small", "width": 32, "heads": 2, "blocks": 1, "hidden": 16, "dropout": 0.0}
    observation, _, _ = watched(knows=KNOWN, model=model, defenses=[defense])
    if defense["name"] == "pruning":
        with pytest.raises(NotApplicable, match="gradient of the position embedding 'positions' is zero"):
            attacked("closed-form-vit", observation)
        return
    assert not attacked("closed-form-vit", observation).is_exact


@pytest.mark.parametrize("defense", [{"name": "sign"}, {"name": "float16"}, {"name": "gradient-noise", "scale": 0.1}])
@pytest.mark.parametrize("knows", [(), ("defenses",)], ids=["naive", "informed"])
def test_an_imprint_is_not_exact_under_them(defense: dict[str, Any], knows: tuple[str, ...]) -> None:
    observation, truth, world = watched(
        knows=(*KNOWN, *knows),
        model={"name": "mlp", "width": 48, "depth": 2, "dropout": 0.0, "bias": True},
        defenses=[defense],
        federation={"batch_size": 2},
        threat={"server": "malicious"},
        attacks=[{"name": "robbing-the-fed"}],
    )
    guess = attacked("robbing-the-fed", observation)
    if guess.is_exact:
        assert (
            min(item.values["psnr"] for item in score_items(guess, truth.batches[0], world.data.dataset.spec).items)
            > 30
        )
    assert not (knows and guess.is_exact)


def test_zeros_that_were_not_sent_are_not_read_as_dropped_units() -> None:
    model = {"name": "mlp", "width": 48, "depth": 2, "dropout": 0.25}
    observation, _, _ = watched(knows=KNOWN, model=model)
    rank_one = {n: t * (torch.arange(len(t)) == 0)[:, None] for n, t in observation.update.tensors.items()}
    pruned = sending(observation, rank_one)
    told = replace(pruned, known_methods=(MethodDescription("pruning", (Sparsified(0.02),)),))
    assert attacked("mask-readout", told).diagnostics["entries read"] == 0.0


def test_the_effects_that_attacks_understand() -> None:
    def seen(*effects: Effect) -> Observation:
        known = MethodDescription("any", effects)
        return observed(nn.Linear(1, 1), None, {}, known_methods=(known,), threat=ThreatModel())  # type: ignore[arg-type]

    half, laplace = AddedNoise("gaussian", 0.1, share=0.5), AddedNoise("laplace", 0.1)
    assert not adds_noise(seen())
    assert adds_noise(seen(Noise("gaussian")))
    assert adds_noise(seen(laplace))
    assert noise_of(seen(Noise("gaussian"), PrivateNoise("gaussian", 1.0))) is None
    assert noise_of(seen(Noise("gaussian"), half, laplace)) == half
    assert bound_of(seen(Clipped(2.0), Clipped(3.0))) == 2.0
    assert bound_of(seen(ClippedParts(1.0))) is None
    assert inexact(seen(Clipped(2.0))) is None
    assert inexact(seen(Clipped(2.0), Rounded())) == "the defense 'any' rounds what is sent"
    assert inexact(seen(PrivateNoise("gaussian", 1.0))) == "a defense adds noise"
