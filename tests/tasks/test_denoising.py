"""Denoising: the weighted loss of EDM, and draws that are the client's secrets."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch, Dataset
from fedsim.tasks.denoising import Denoising, DenoisingConfig

TASK = Denoising(DenoisingConfig())


def batch(count: int = 4) -> Batch:
    inputs = torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    return Batch(inputs, torch.arange(count) % 4)


def drawn(own: Batch, **settings: Any) -> dict[str, Tensor]:
    return dict(Denoising(DenoisingConfig(**settings)).draw(own, torch.Generator().manual_seed(0)))


def test_the_model_sees_the_noisy_image_and_its_level_and_pays_the_weighted_error() -> None:
    own = batch()
    draws = drawn(own)
    seen: list[Tensor] = []

    def model(x: Tensor, noise: Tensor) -> Tensor:
        seen.extend((x, noise))
        return torch.zeros_like(x)

    losses = TASK.losses(TASK.outputs(model, own, draws), TASK.targets(own, draws))
    s = draws["level"]
    torch.testing.assert_close(seen[0], own.inputs + s.view(-1, 1, 1, 1) * draws["noise"])
    assert torch.equal(seen[1], s)
    torch.testing.assert_close(losses, (s**2 + 1) / s**2 * own.inputs.square().mean((1, 2, 3)))


def test_the_best_linear_denoiser_of_gaussian_data_pays_one_at_every_level() -> None:
    count = 20_000
    own = Batch(torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(2)), torch.zeros(count).long())
    draws = drawn(own)

    def best(x: Tensor, noise: Tensor) -> Tensor:
        return x / (1 + noise.view(-1, 1, 1, 1).square())

    losses = TASK.losses(TASK.outputs(best, own, draws), TASK.targets(own, draws))
    # Its error has variance s^2 / (1 + s^2) in each pixel, which the weight undoes.
    for part in (draws["level"] < 0.5, draws["level"] >= 0.5):
        error = float(losses[part].std()) / math.sqrt(int(part.sum()))
        assert abs(float(losses[part].mean()) - 1) < 3 * error


def test_levels_have_the_law_of_the_settings() -> None:
    logs = drawn(batch(20_000), log_mean=0.3, log_std=0.7)["level"].log()
    assert abs(float(logs.mean()) - 0.3) < 3 * 0.7 / math.sqrt(20_000)
    assert abs(float(logs.std()) - 0.7) < 3 * 0.7 / math.sqrt(40_000)


def test_a_class_is_told_but_for_a_share_of_the_images() -> None:
    own = batch(1000)
    task, draws = Denoising(DenoisingConfig(classes=True)), drawn(own, classes=True)
    seen: list[Tensor] = []

    def model(x: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels)
        return x

    task.outputs(model, own, draws)
    assert torch.equal(seen[0] == -1, draws["unlabelled"])
    assert torch.equal(seen[0][~draws["unlabelled"]], own.labels[~draws["unlabelled"]])
    assert abs(float(draws["unlabelled"].float().mean()) - 0.1) < 3 * math.sqrt(0.09 / 1000)
    task.outputs(model, own, {})
    assert torch.equal(seen[1], own.labels)


def test_without_draws_the_image_is_clean_and_the_level_the_middle_one() -> None:
    seen: list[Tensor] = []

    def model(x: Tensor, noise: Tensor) -> Tensor:
        seen.extend((x, noise))
        return x

    own = batch()
    outputs, targets = TASK.outputs(model, own, {}), TASK.targets(own, {})
    assert torch.equal(seen[0], own.inputs)
    torch.testing.assert_close(seen[1], torch.full((4,), math.exp(-0.5)))
    assert not TASK.losses(outputs, targets).any()


def test_models_that_predict_no_noise_or_are_told_no_classes_are_named() -> None:
    with pytest.raises(FedsimError, match=r"predicts no noise.*argument 'noise'.*model\.name = \"edm-unet\""):
        TASK.outputs(torch.nn.Linear(2, 2), batch(), drawn(batch()))
    denoising = Denoising(DenoisingConfig(classes=True))
    with pytest.raises(FedsimError, match=r"no argument 'labels'.*model\.classes = true"):
        denoising.outputs(lambda x, noise: x, batch(), drawn(batch(), classes=True))


@pytest.mark.parametrize(("known", "message"), [(0, "the model has no class input"), (None, "no argument 'labels'")])
def test_a_model_is_refused_by_what_it_reads(known: int | None, message: str) -> None:
    class Plain(torch.nn.Module):
        def forward(self, x: Tensor, noise: Tensor) -> Tensor:
            return x

    class Told(torch.nn.Module):
        classes = known

        def forward(self, x: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
            return x

    model = Plain() if known is None else Told()
    assert TASK.refuses_model(model) is None
    assert message in (Denoising(DenoisingConfig(classes=True)).refuses_model(model) or "")
    assert "has no argument 'noise'" in (TASK.refuses_model(torch.nn.Linear(2, 2)) or "")


def test_it_fits_images_alone_and_tests_the_same_loss(samples: dict[str, Dataset]) -> None:
    data = samples["classification"]
    figures = TASK.evaluate(lambda x, noise: torch.zeros_like(x), data, torch.Generator().manual_seed(0))
    assert figures["test_denoising_loss"] > 1
    assert "has shape (5,)" in str(TASK.refuses(samples["tabular"]))
    assert TASK.show(data.test.inputs, data).shape == (20, 1, 2, 2)  # type: ignore[union-attr]
