"""What every defense promises. Driven by the registry: a new file is covered without a change here."""

from typing import Any

import pytest
import torch
from torch import nn

from fedsim.core import registry, seeding
from fedsim.core.hooks import Defense, HookContext, LocalStep
from fedsim.core.types import Batch, Update
from fedsim.core.types.effects import Clipped, ClippedParts, Effect
from tests.defenses.applying import applied
from tests.defenses.stepping import gradient, here, make

DEFENSES = registry.methods("defense", Defense)
WITHOUT_STRENGTH: dict[str, dict[str, Any]] = {
    "clipping": {"norm": 1e9},
    "gradient-noise": {"scale": 0.0},
    "grad-defense": {"scale": 0.0},
    "outpost": {"rate": 0.0, "noise": 0.0},
    "pruning": {"rate": 0.0},
    "random-pruning": {"rate": 0.0},
    "soteria": {"rate": 0.0},
}


def batch() -> Batch:
    numbers = torch.Generator().manual_seed(5)
    return Batch(torch.randn(5, 1, 8, 8, generator=numbers), torch.tensor([0, 1, 2, 3, 3]))


def in_step(defense: Defense[Any], seed: int = 0) -> HookContext:
    """A local step of a small model that the defense has prepared."""
    with seeding.isolate_randomness(1):
        model: nn.Module = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(256, 4)
        )
    model = defense.prepare(model, torch.Generator().manual_seed(2)).train()
    local = LocalStep(model, dict(model.named_parameters()), batch(), 5.0)
    return HookContext(1, 0, 0, torch.Generator().manual_seed(seed), local=local)


@pytest.mark.parametrize("name", DEFENSES)
def test_it_keeps_names_and_shapes_and_stays_finite(name: str) -> None:
    before = {key: value.clone() for key, value in gradient().items()}
    after = applied(make(name), gradient())
    assert {key: value.shape for key, value in after.items()} == {key: value.shape for key, value in before.items()}
    assert {key: value.dtype for key, value in after.items()} == {key: value.dtype for key, value in before.items()}
    assert all(torch.isfinite(value).all() for value in after.values())
    assert all(torch.isfinite(v).all() for v in applied(make(name), {k: v * 0 for k, v in before.items()}).values())


@pytest.mark.parametrize("name", DEFENSES)
def test_it_never_changes_its_input_and_depends_on_its_generator_alone(name: str) -> None:
    tensors = gradient()
    first, second = applied(make(name), tensors), applied(make(name), tensors)
    assert all(torch.equal(tensors[key], gradient()[key]) for key in tensors)
    assert all(torch.equal(first[key], second[key]) for key in tensors)


@pytest.mark.parametrize("name", DEFENSES)
def test_it_keeps_the_shape_of_a_batch_and_depends_on_its_generator_alone(name: str) -> None:
    given = batch()
    defense = make(name)
    first, second = (defense.on_batch(given, in_step(defense, 3)) for _ in range(2))
    assert first.inputs.shape == given.inputs.shape
    assert len(first) == len(given)
    assert torch.isfinite(first.inputs).all()
    assert not first.inputs.requires_grad
    assert torch.equal(given.inputs, batch().inputs)
    assert torch.equal(first.inputs, second.inputs)
    assert torch.equal(first.labels, second.labels)
    if first.labels.is_floating_point():
        assert first.labels.shape == (5, 4)
        assert torch.allclose(first.labels.sum(1), torch.ones(5))
    else:
        assert torch.equal(first.labels, given.labels)


@pytest.mark.parametrize("name", DEFENSES)
def test_it_prepares_the_same_model_every_time_and_its_loss_is_a_finite_scalar(name: str) -> None:
    defense = make(name)
    ours, theirs = (in_step(defense).local for _ in range(2))
    pairs = zip(ours.model.state_dict().items(), theirs.model.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
    here_ = in_step(defense)
    changed = defense.on_batch(here_.local.batch, here_)
    outputs = here_.local.model(changed.inputs)
    assert outputs.shape == (5, 4)
    added = defense.loss(outputs, here_)
    assert added is None or (added.shape == () and bool(torch.isfinite(added)))


@pytest.mark.parametrize("name", DEFENSES)
def test_it_tells_an_informed_attacker_what_is_public(name: str) -> None:
    view = make(name).adaptive_view()
    assert view.source == name
    assert view.effects or view.settings


@pytest.mark.parametrize("name", [name for name in WITHOUT_STRENGTH if name != "clipping"])
def test_without_strength_it_states_no_effect(name: str) -> None:
    defense = make(name, **WITHOUT_STRENGTH[name])
    in_step(defense)
    assert defense.adaptive_view().effects == ()


@pytest.mark.parametrize(
    ("name", "clipping"),
    [("local-dp", Clipped(2.0)), ("distributed-dp", ClippedParts(2.0)), ("dp-sgd", ClippedParts(2.0))],
)
def test_a_private_mechanism_without_noise_states_its_clipping_alone(name: str, clipping: Effect) -> None:
    assert make(name, noise_multiplier=0.0, clip=2.0).adaptive_view().effects == (clipping,)


@pytest.mark.parametrize("name", WITHOUT_STRENGTH)
def test_without_strength_it_changes_no_bit(name: str) -> None:
    after = applied(make(name, **WITHOUT_STRENGTH[name]), gradient())
    assert all(torch.equal(after[key], gradient()[key]) for key in after)


@pytest.mark.parametrize("name", [name for name in DEFENSES if "applies" in DEFENSES[name].config.model_fields])
def test_per_update_leaves_gradients_alone_and_changes_what_is_sent_in_the_same_way(name: str) -> None:
    strong = {"norm": 1e-3} if name == "clipping" else {}
    step, update = (make(name, applies=applies, **strong) for applies in ("per_step", "per_update"))
    assert all(torch.equal(update.on_gradient(gradient(), here())[key], gradient()[key]) for key in gradient())
    sent = update.on_upload(Update("delta", gradient(), {}, 1, 0.0), here()).tensors
    stepped = step.on_gradient(gradient(), here())
    assert all(torch.equal(sent[key], stepped[key]) for key in sent)
    assert any(not torch.equal(sent[key], gradient()[key]) for key in sent)
    raw = Update("delta", gradient(), {}, 1, 0.0)
    assert step.on_upload(raw, here()) is raw
