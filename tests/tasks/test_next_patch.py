"""Next patch: the noise is what is learnt, and times and noise are secrets of the client."""

import pytest
import torch
from torch import Tensor

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch, Dataset, InputSpec
from fedsim.tasks.next_patch import NextPatch, NextPatchConfig

TASK = NextPatch(NextPatchConfig())
BATCH = Batch(torch.randn(6, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4)


def test_the_model_is_told_what_was_drawn_and_pays_for_the_noise_that_it_misses() -> None:
    draws = TASK.draw(BATCH, torch.Generator().manual_seed(1))
    assert bool(((draws["time"] >= 0) & (draws["time"] < 1)).all())
    told: list[Tensor] = []

    def model(images: Tensor, time: Tensor, pixel_noise: Tensor) -> Tensor:
        told.extend((time, pixel_noise))
        return pixel_noise + 2

    losses = TASK.losses(TASK.outputs(model, BATCH, draws), TASK.targets(BATCH, draws))
    assert losses.tolist() == pytest.approx([4.0] * 6)
    assert torch.equal(told[0], draws["time"])
    assert torch.equal(told[1], draws["noise"])


def test_who_answers_with_nothing_pays_one_on_average(samples: dict[str, Dataset]) -> None:
    data = samples["classification"]
    figures = TASK.evaluate(lambda x, time, pixel_noise: torch.zeros_like(x), data, torch.Generator().manual_seed(0))
    # 4 draws of 20 images of 4 pixels: 320 squares of deviation 1.41, within three standard errors.
    assert abs(figures["test_denoising_loss"] - 1) < 0.24
    assert "shape (5,)" in str(TASK.refuses(samples["tabular"]))
    assert TASK.show(data.test.inputs, data).shape == (20, 1, 2, 2)  # type: ignore[union-attr]


def test_classes_are_told_if_asked_for_and_other_models_are_named() -> None:
    seen: list[Tensor] = []

    def model(images: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels)
        return images

    NextPatch(NextPatchConfig(classes=True)).outputs(model, BATCH, {})
    assert torch.equal(seen[0], BATCH.labels)
    with pytest.raises(FedsimError, match=r"predicts no noise of patches.*patch-diffusion"):
        TASK.outputs(torch.nn.Linear(2, 2), BATCH, TASK.draw(BATCH, torch.Generator()))


def test_what_is_said_of_the_error_is_best_where_it_is_its_square_and_moves_no_outputs() -> None:
    noise = torch.randn(1, 1, 200, 1, generator=torch.Generator().manual_seed(3))
    targets, said = torch.zeros_like(noise), torch.tensor(0.0, requires_grad=True)
    guess = noise.clone().requires_grad_()

    def loss(log_error: Tensor) -> Tensor:
        return TASK.losses(torch.cat((guess, log_error.expand_as(guess)), 1), targets).sum()

    best = noise.square().mean().log()  # where d/du (u + e^2 exp(-u)) = 0 on average
    (slope,) = torch.autograd.grad(loss(best + said), said)
    assert abs(float(slope)) < 1e-9  # single precision, times the weight of a thousandth
    at, above, below = (loss(best + off).item() for off in (0.0, 0.2, -0.2))
    assert at < min(above, below)
    with_it, without = (torch.autograd.grad(own, guess)[0] for own in (loss(best), TASK.losses(guess, targets).sum()))
    assert torch.equal(with_it, without)


def test_a_random_order_is_a_hidden_draw_and_must_be_the_models() -> None:
    task = NextPatch(NextPatchConfig(order="random"))
    draws = task.draw(BATCH, torch.Generator().manual_seed(1))
    assert draws["order"].shape == (6, 2, 2)
    plain = TASK.draw(BATCH, torch.Generator().manual_seed(1))
    assert all(torch.equal(plain[name], draws[name]) for name in ("time", "noise"))
    method, seen = registry.get("model", "patch-diffusion"), list[Tensor]()
    sizes = {"patch": 1, "width": 16, "blocks": 1, "hidden": 16, "head_width": 8}
    models = {
        order: method.make(
            method.config.model_validate({**sizes, "order": order}), InputSpec((1, 2, 2), 4, (0.0,), (1.0,))
        )
        for order in ("reading", "random")
    }
    assert task.refuses_model(models["random"]) is None
    assert TASK.refuses_model(models["reading"]) is None
    assert "task.order is 'random', and the model's patches come in order 'reading'" in str(
        task.refuses_model(models["reading"])
    )
    assert "task.order is 'reading', and the model's patches come in order 'random'" in str(
        TASK.refuses_model(models["random"])
    )
    assert task.outputs(models["random"], BATCH, draws).shape == BATCH.inputs.shape

    def model(images: Tensor, time: Tensor, pixel_noise: Tensor, order: Tensor) -> Tensor:
        seen.append(order)
        return images

    task.outputs(model, BATCH, draws)
    assert torch.equal(seen[0], draws["order"])
