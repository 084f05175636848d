"""Targets read from gradients: every loss of the closed forms, by hand and at random."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.core.targets._values import Targets
from attacks.core.targets.reading import label_guess, labels_to_search, read_targets
from fedsim.core import registry
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.masks import record_masks
from fedsim.core.types import InputSpec, LabelHead, Masks, MethodDescription, Observation, ThreatModel, Update
from fedsim.core.types.effects import Clipped, Rounded
from tests.attacks.solving import observed, solve

Loss = Callable[[Tensor, Tensor], Tensor]

TASKS = {
    "class": "classification",
    "set": "multi-label",
    "numbers": "regression",
    "mask": "segmentation",
    "heads": "multi-head",
}
FEATURES, OUTPUTS, PIXELS = 20, 4, 30
ROUNDING = {
    torch.float64: 1e-12,
    torch.float32: 1e-4,
}  # what the type leaves of a number near 1, with room for the inverse


def observe(model: nn.Module, loss: Loss, inputs: Tensor, labels: Tensor, kind: str, outputs: int) -> Observation:
    method = registry.get("task", TASKS[kind])
    value = loss(model(inputs), labels)
    trained = dict(model.named_parameters())
    tensors = dict(zip(trained, torch.autograd.grad(value, list(trained.values())), strict=True))
    return observed(
        model, InputSpec(tuple(inputs.shape[1:]), outputs, (0.0,), (1.0,)), tensors, len(inputs), loss=loss,
        task=method.make(method.config()), label_shape=tuple(labels.shape[1:]), learning_rate=1.0,
        threat=ThreatModel(knows=("batch-size",)),
    )  # fmt: skip


def dense(outputs: int = OUTPUTS, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(PIXELS, FEATURES), nn.Tanh(), nn.Linear(FEATURES, outputs)).to(dtype)


def convolutions(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Conv2d(16, outputs, 1)).double()


def numbers(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def weighted(outputs: Tensor, labels: Tensor) -> Tensor:
    weights = torch.tensor([3.0, 1.0, 2.0, 5.0], dtype=outputs.dtype)
    return F.binary_cross_entropy_with_logits(outputs, labels, pos_weight=weights)


def gaussian(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.gaussian_nll_loss(outputs[:, :2], labels, outputs[:, 2:].exp())


LOSSES: dict[str, tuple[str, Loss]] = {
    "mse": ("numbers", F.mse_loss),
    "sum": ("numbers", lambda outputs, labels: F.mse_loss(outputs, labels, reduction="sum")),
    "huber": ("numbers", lambda outputs, labels: F.huber_loss(outputs, labels, delta=99.0)),
    "smooth-l1": ("numbers", lambda outputs, labels: F.smooth_l1_loss(outputs, labels, beta=99.0)),
    "poisson": ("numbers", F.poisson_nll_loss),
    "gaussian": ("numbers", gaussian),
    "cross-entropy": ("class", F.cross_entropy),
    "smoothing": ("class", lambda outputs, labels: F.cross_entropy(outputs, labels, label_smoothing=0.1)),
    "hinge": ("class", F.multi_margin_loss),
    "class weights": ("class", lambda o, y: F.cross_entropy(o, y, torch.tensor([1.0, 9.0, 2.0, 0.5], dtype=o.dtype))),
    "bce": ("set", F.binary_cross_entropy_with_logits),
    "weighted bce": ("set", weighted),
    "mse of a set": ("set", lambda outputs, labels: F.mse_loss(outputs.sigmoid(), labels)),
}


def targets_of(name: str, examples: int, dtype: torch.dtype) -> Tensor:
    kind, values = LOSSES[name][0], numbers(examples, OUTPUTS, dtype=dtype, seed=2)
    if kind == "class":
        return torch.arange(examples) * 7 % OUTPUTS
    if kind == "set":
        return (values > 0).to(dtype)
    return values.exp().floor() if name == "poisson" else values[:, :2] if name == "gaussian" else values


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("examples", [1, 4, FEATURES + 1])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_gives_its_targets(name: str, examples: int, dtype: torch.dtype) -> None:
    kind, loss = LOSSES[name]
    inputs, labels = numbers(examples, PIXELS, dtype=dtype), targets_of(name, examples, dtype)
    read = read_targets(observe(dense(dtype=dtype), loss, inputs, labels, kind, OUTPUTS), inputs, None)
    assert read.is_whole
    assert not bool(read.are_bounded.any())
    assert read.values.dtype == labels.dtype
    torch.testing.assert_close(read.values, labels, rtol=0, atol=ROUNDING[dtype])


def by_hand(loss: Loss, label: float) -> Targets:
    """W = [1, -2], b = 0.5, h = (3, 1), so z = 1.5."""
    model = nn.Sequential(nn.Linear(2, 1)).double()
    model[0].weight.data, model[0].bias.data = torch.tensor([[1.0, -2.0]]).double(), torch.tensor([0.5]).double()
    inputs, labels = torch.tensor([[3.0, 1.0]]).double(), torch.tensor([[label]], dtype=torch.float64)
    read = read_targets(observe(model, loss, inputs, labels, "numbers", 1), inputs, None)
    assert read is not None
    return read


def test_the_worked_examples() -> None:
    for loss, label in ((F.mse_loss, 4.0), (F.huber_loss, 1.2), (lambda z, y: F.smooth_l1_loss(z, y, beta=0.5), 1.2)):
        assert float(by_hand(loss, label).values) == pytest.approx(label, abs=1e-12)  # a few roundings


def test_a_saturated_loss_bounds_the_target() -> None:
    read = by_hand(F.huber_loss, 4.0)
    assert not read.is_whole
    assert bool(read.are_bounded.all())
    assert float(read.values) == pytest.approx(2.5, abs=1e-12)  # 1.5 + 1, and no more is told
    assert (
        read.summary == "0 of 1 targets are read from the output layer, 1 are only bounded: the loss is linear in them"
    )


def test_an_absolute_error_tells_no_number() -> None:
    read = by_hand(F.l1_loss, 4.0)
    assert not bool((read.are_read | read.are_bounded).any())
    assert bool(read.values.isnan().all())


def test_only_saturated_targets_of_a_batch_are_bounded() -> None:
    inputs, labels = numbers(6, PIXELS), 2 * numbers(6, OUTPUTS, seed=2)
    model = dense()
    far = (model(inputs).detach() - labels).abs() > 1
    read = read_targets(observe(model, F.huber_loss, inputs, labels, "numbers", OUTPUTS), inputs, None)
    assert bool(far.any())
    assert torch.equal(read.are_bounded, far)
    assert torch.equal(read.are_read, ~far)
    torch.testing.assert_close(read.values[~far], labels[~far], rtol=0, atol=ROUNDING[torch.float64])


def test_more_examples_than_features_are_told_apart_by_the_other_layers() -> None:
    inputs, labels = numbers(FEATURES + 9, PIXELS), numbers(FEATURES + 9, OUTPUTS, seed=2)
    read = read_targets(observe(dense(), F.mse_loss, inputs, labels, "numbers", OUTPUTS), inputs, None)
    torch.testing.assert_close(read.values, labels, rtol=0, atol=ROUNDING[torch.float64])


def test_a_linear_model_of_more_examples_than_features_tells_nothing() -> None:
    model, inputs = nn.Sequential(nn.Linear(3, 2)).double(), numbers(5, 3)
    assert read_targets(observe(model, F.mse_loss, inputs, numbers(5, 2), "numbers", 2), inputs, None) is None


def test_a_number_for_each_example_may_have_no_dimension_of_its_own() -> None:
    model, inputs, labels = nn.Sequential(dense(1), nn.Flatten(0)), numbers(5, PIXELS), numbers(5)
    read = read_targets(observe(model, F.mse_loss, inputs, labels, "numbers", 1), inputs, None)
    torch.testing.assert_close(read.values, labels, rtol=0, atol=ROUNDING[torch.float64])


@pytest.mark.parametrize("examples", [1, 3])
def test_a_mask_is_read_pixel_by_pixel(examples: int) -> None:
    inputs = numbers(examples, 1, 5, 5)
    classes = torch.randint(3, (examples, 5, 5), generator=torch.Generator().manual_seed(3))
    read = read_targets(observe(convolutions(3), F.cross_entropy, inputs, classes, "mask", 3), inputs, None)
    assert torch.equal(read.values, classes)
    flags = (classes[:, None] == 1).double()
    observation = observe(convolutions(1), F.binary_cross_entropy_with_logits, inputs, flags, "mask", 1)
    read = read_targets(observation, inputs, None)
    assert torch.equal(read.values, flags)


def test_pixels_that_do_not_count_are_not_read_and_others_are() -> None:
    inputs = numbers(1, 1, 5, 5)
    classes = torch.randint(3, (1, 5, 5), generator=torch.Generator().manual_seed(3))
    classes[0, :2] = -100

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels, torch.tensor([1.0, 4.0, 2.0], dtype=outputs.dtype))

    read = read_targets(observe(convolutions(3), loss, inputs, classes, "mask", 3), inputs, None)
    assert torch.equal(read.are_read, classes >= 0)
    assert torch.equal(read.values[read.are_read], classes[classes >= 0])
    assert set(read.values[~read.are_read].tolist()) == {-1}


def dropped(examples: int) -> tuple[Observation, Tensor, Masks, Tensor]:
    """Dropout in front of the output layer; `masks` are those that were drawn."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(PIXELS, 40), nn.Tanh(), nn.Dropout(0.5), nn.Linear(40, OUTPUTS)).double()
    inputs, labels = numbers(examples, PIXELS), numbers(examples, OUTPUTS, seed=2)
    with record_masks(model, torch.Generator().manual_seed(5)) as drawn:
        observation = observe(model, F.mse_loss, inputs, labels, "numbers", OUTPUTS)
    return replace(observation, sites=tuple(drawn.sites)), inputs, tuple(drawn.masks), labels


def test_dropout_hides_no_target_of_one_example() -> None:
    observation, inputs, _, labels = dropped(1)
    read = read_targets(observation, torch.zeros_like(inputs), None)  # inputs are not looked at
    torch.testing.assert_close(read.values, labels, rtol=0, atol=ROUNDING[torch.float64])


def test_dropout_hides_those_of_a_batch_unless_masks_are_known() -> None:
    observation, inputs, masks, labels = dropped(4)
    assert read_targets(observation, inputs, None) is None
    read = read_targets(observation, inputs, masks)
    torch.testing.assert_close(read.values, labels, rtol=0, atol=ROUNDING[torch.float64])


def test_wrong_inputs_give_no_targets() -> None:
    inputs, labels = numbers(4, PIXELS), numbers(4, OUTPUTS, seed=2)
    observation = observe(dense(), F.mse_loss, inputs, labels, "numbers", OUTPUTS)
    assert read_targets(observation, numbers(4, PIXELS, seed=9), None) is None


@pytest.mark.parametrize("effect", [Rounded(), Clipped(1e-3)])
def test_a_known_change_of_the_gradient_tells_no_target(effect: Rounded | Clipped) -> None:
    inputs, labels = numbers(2, PIXELS), numbers(2, OUTPUTS, seed=2)
    observation = observe(dense(), F.mse_loss, inputs, labels, "numbers", OUTPUTS)
    known = replace(observation, known_methods=(MethodDescription("a defense", (effect,)),))
    assert read_targets(observation, inputs, None) is not None
    assert read_targets(known, inputs, None) is None


def test_an_update_of_a_known_rate_is_a_gradient() -> None:
    inputs, labels = numbers(3, PIXELS), numbers(3, OUTPUTS, seed=2)
    observation = observe(dense(), F.mse_loss, inputs, labels, "numbers", OUTPUTS)
    moved = {name: 0.25 * tensor for name, tensor in observation.update.tensors.items()}
    sent = replace(observation, update=Update("delta", moved, {}, 3, 0.0), learning_rate=0.25)
    read = read_targets(sent, inputs, None)
    torch.testing.assert_close(read.values, labels, rtol=0, atol=ROUNDING[torch.float64])


def test_what_is_not_read_is_granted_or_unknown() -> None:
    inputs, labels = numbers(3, PIXELS), numbers(3, OUTPUTS, seed=2)
    observation = observe(dense(), F.mse_loss, inputs, labels, "numbers", OUTPUTS)
    wrong = numbers(3, PIXELS, seed=9)
    assert bool(label_guess(observation, wrong, None).labels.isnan().all())
    assert torch.equal(label_guess(replace(observation, labels=labels), wrong, None).labels, labels)
    turned = inputs.roll(1, 0)  # granted labels are in no order of the guess; those that are read are
    torch.testing.assert_close(label_guess(replace(observation, labels=labels), turned, None).labels, labels.roll(1, 0))


def test_labels_to_search_with_are_granted_or_those_of_one_example() -> None:
    inputs, labels = numbers(2, PIXELS), numbers(2, OUTPUTS, seed=2)
    one = observe(dense(), F.mse_loss, inputs[:1], labels[:1], "numbers", OUTPUTS)
    torch.testing.assert_close(labels_to_search(one), labels[:1], rtol=0, atol=ROUNDING[torch.float64])
    several = observe(dense(), F.mse_loss, inputs, labels, "numbers", OUTPUTS)
    straight = observe(dense(), F.l1_loss, inputs[:1], labels[:1], "numbers", OUTPUTS)
    for observation in (several, straight):
        with pytest.raises(NotApplicable, match=r"the labels are numbers, .* Add 'labels' to threat.knows"):
            labels_to_search(observation)
    assert torch.equal(labels_to_search(replace(several, labels=labels)), labels)


def test_inputs_are_the_same_whatever_the_loss_and_their_targets_come_with_them() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, OUTPUTS)).double()
    inputs = numbers(3, 12)
    for name in ("mse", "bce", "cross-entropy"):
        kind, loss = LOSSES[name]
        labels = targets_of(name, 3, torch.float64)
        observation = observe(model, loss, inputs, labels, kind, OUTPUTS)
        guess = solve("spear", observation)
        order = torch.cdist(inputs, guess.inputs).argmin(1)
        torch.testing.assert_close(guess.inputs[order], inputs, rtol=0, atol=1e-9)  # of a basis of singular vectors
        torch.testing.assert_close(guess.labels[order], labels, rtol=0, atol=1e-6)
        assert guess.is_exact


HEADS = (LabelHead("which", "class", (), 3), LabelHead("what", "set", (2,), 2), LabelHead("where", "numbers", (2,), 2))


def of_heads(outputs: Tensor, labels: Tensor) -> Tensor:
    """A class, a set, and numbers that count only where the first of the set holds, as boxes of a detector."""
    error = (outputs[:, 5:] - labels[:, 3:]).square().mean(1)
    return (
        F.cross_entropy(outputs[:, :3], labels[:, 0].long())
        + F.binary_cross_entropy_with_logits(outputs[:, 3:5], labels[:, 1:3])
        + 0.3 * (labels[:, 1] * error).mean()
    )


class SeparateHeads(nn.Module):
    """Three layers side by side; the last one alone would tell nothing of the others."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(PIXELS, FEATURES), nn.Tanh())
        self.heads = nn.ModuleList([nn.Linear(FEATURES, outputs) for outputs in (3, 2, 2)])

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.body(inputs)
        return torch.cat([head(features) for head in self.heads], 1)


@pytest.mark.parametrize("model", [dense(7), SeparateHeads().double()])
@pytest.mark.parametrize("examples", [1, 4])
def test_each_head_gives_its_labels(model: nn.Module, examples: int) -> None:
    inputs = numbers(examples, PIXELS)
    rows = torch.tensor([[2.0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0]], dtype=torch.float64)
    labels = torch.cat([rows, numbers(4, 2, seed=5)], 1)[:examples]
    observation = observe(model, of_heads, inputs, labels, "heads", 7)
    observation = replace(observation, spec=replace(observation.spec, heads=HEADS))
    targets = read_targets(observation, inputs, None)
    counts = (labels[:, 1:2] == 1).expand(-1, 2)
    assert targets.are_read[:, :3].all()
    assert torch.equal(targets.are_read[:, 3:], counts)
    assert torch.equal(targets.values[:, :3], labels[:, :3])
    torch.testing.assert_close(targets.values[:, 3:][counts], labels[:, 3:][counts], rtol=0.0, atol=1e-10)
    assert targets.values[:, 3:][~counts].isnan().all()  # they are in no loss
