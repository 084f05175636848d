"""Continuous speculative decoding: what it draws alone, its counts, and the law of two patches."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor, nn

from fedsim.core import registry, seeding
from fedsim.core.denoisers import save_denoiser
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Condition
from fedsim.core.types import Generated, InputSpec
from fedsim.generation import sample
from tests.components.generating import Denoiser, denoiser_for, make, sources

NAME = "continuous-speculative"
SPEC = InputSpec((3, 4, 4), 3, (0.0,) * 3, (1.0,) * 3)
SETTINGS = {"patch": 2, "width": 16, "blocks": 1, "hidden": 16, "head_width": 8, "head_layers": 1, "levels": 4}


class Pair(nn.Module):
    """Two numbers side by side: the second one leans on the first. Of three levels, with deviations of their own."""

    shape, patches, size, levels = (1, 1, 2), 2, 1, 3

    def __init__(self, lean: float, std: float) -> None:
        super().__init__()
        self.lean, self.std = nn.Parameter(torch.tensor(lean)), std

    def conditions(self, patches: Tensor, labels: Tensor | None = None) -> Tensor:
        return torch.cat((patches.new_ones(len(patches), 1, 1), self.lean * patches), 1)

    def reverse(self, x: Tensor, level: int, condition: Tensor) -> tuple[Tensor, Tensor]:
        return 0.5 * x + condition, torch.full_like(x, self.std)

    def cut(self, images: Tensor) -> Tensor:
        return images.view(-1, 2, 1)

    def join(self, patches: Tensor) -> Tensor:
        return patches.view(-1, 1, 1, 2)


class Doubling(nn.Module):
    """Numbers side by side, each twice the one before: 1, 2, 4. Nearly without noise."""

    shape, patches, size, levels = (1, 1, 3), 3, 1, 2

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def conditions(self, patches: Tensor, labels: Tensor | None = None) -> Tensor:
        return torch.cat((patches.new_ones(len(patches), 1, 1), self.factor * patches), 1)

    def reverse(self, x: Tensor, level: int, condition: Tensor) -> tuple[Tensor, Tensor]:
        return 0.0 * x + condition, torch.full_like(x, 1e-4)

    def cut(self, images: Tensor) -> Tensor:
        return images.view(-1, 3, 1)

    def join(self, patches: Tensor) -> Tensor:
        return patches.view(-1, 1, 1, 3)


def patch_model(seed: int, spec: InputSpec = SPEC, **settings: Any) -> nn.Module:
    method = registry.get("model", "patch-diffusion")
    with seeding.isolate_randomness(seed):
        return method.make(method.config.model_validate({**SETTINGS, **settings}), spec)


def kept(folder: Path, seed: int, spec: InputSpec = SPEC, **settings: Any) -> str:
    save_denoiser(patch_model(seed, spec, **settings), {**SETTINGS, **settings}, spec, folder, "patch-diffusion")
    return str(folder)


def draw(model: nn.Module, count: int = 2, shape: tuple[int, ...] = (3, 4, 4), **settings: Any) -> list[Generated]:
    return sample(make(NAME, **settings), model, Condition(((),) * count), shape, sources(count))


def test_without_drafts_it_is_the_model_alone_whichever_way_that_is_said() -> None:
    model = denoiser_for(NAME)
    alone, filled = draw(model, length=0), draw(model, prefill=1.0)
    for first, second in zip(alone, filled, strict=True):
        assert first.x is not None
        assert second.x is not None
        assert torch.equal(first.x, second.x)
        assert first.trace.series()["passes"] == (1, 1, 1, 1)


def test_a_model_that_drafts_for_itself_accepts_every_patch() -> None:
    (own,) = draw(denoiser_for(NAME), 1, length=2, prefill=0.0)
    assert own.trace.series() == {"drafted": (2, 1), "accepted": (2, 1), "passes": (1, 1), "tries": (0, 0)}


def test_the_patch_behind_an_accepted_draft_follows_its_last_patch() -> None:
    (own,) = draw(Doubling(), 1, (1, 1, 3), length=2, prefill=0.0)
    assert own.trace.series() == {"drafted": (2,), "accepted": (2,), "passes": (1,), "tries": (0,)}
    assert own.x is not None
    # each deviates by 1e-4 and twice what the one before does: 4.6e-4 for the last, whose 4.4-fold is allowed
    torch.testing.assert_close(own.x.flatten(), torch.tensor([1.0, 2.0, 4.0]), rtol=0, atol=2e-3)


def test_another_draft_is_accepted_in_part_and_the_trace_says_how_much(tmp_path: Path) -> None:
    own = draw(denoiser_for(NAME), 12, draft=kept(tmp_path, 7), length=3, prefill=0.0)
    series = [one.trace.series() for one in own]
    assert all(sum(a + (a < d or d < 3) for a, d in zip(s["accepted"], s["drafted"], strict=True)) >= 3 for s in series)
    assert any(a < d for s in series for a, d in zip(s["accepted"], s["drafted"], strict=True))
    for s in series:
        assert all((a == d) == (t == 0) for a, d, t in zip(s["accepted"], s["drafted"], s["tries"], strict=True))


@pytest.mark.slow
def test_two_patches_have_the_joint_law_of_the_model() -> None:
    target, draft, count = Pair(0.8, 0.6), Pair(-0.5, 0.7), 3000
    method = make(NAME, length=2, prefill=0.0)

    def numbers(sampler: Any, seed: int) -> Tensor:
        samples = sample(sampler, target, Condition(((),) * count), (1, 1, 2), sources(count, seed), at_once=500)
        return torch.stack([own.x for own in samples if own.x is not None])[:, 0, 0]

    class Other(type(method)):  # type: ignore[misc]
        def start(self, model: nn.Module, condition: Condition, context: Any) -> Any:
            state = super().start(model, condition, context)
            return type(state)(state.x, state.level, state.classes, (draft,) * len(state))

    class Keeping(Other):
        """Keeps the second draft behind a first one that fell, which is wrong."""

        def _drafts(self, *given: Any) -> Any:
            self.kept, lasts = super()._drafts(*given)
            return self.kept, lasts

        def _draw(self, *given: Any) -> Any:
            own = super()._draw(*given)
            return own if len(own.patches) == 2 else own._replace(patches=torch.cat((own.patches, self.kept[1:])))

    plain = numbers(make(NAME, length=0), 1)

    def distances(speculated: Tensor) -> list[float]:
        found = []
        for weights in ((1.0, 0.0), (0.0, 1.0), (1.0, -1.0), (1.0, 1.0)):
            one, other = (own @ torch.tensor(weights) for own in (plain, speculated))
            result: Any = ks_2samp(one.numpy(), other.numpy())
            found.append(result.statistic)
        return found

    bound = 1.63 * math.sqrt(2 / count)  # of two samples, 1 in 100
    assert max(distances(numbers(Other(method.config), 2))) < bound
    assert max(distances(numbers(Keeping(method.config), 2))) > 2 * bound


def test_a_draft_of_images_of_another_shape_is_refused(tmp_path: Path) -> None:
    wide = InputSpec((3, 2, 8), 3, (0.0,) * 3, (1.0,) * 3)  # as many patches of the same size
    message = r"the draft draws images of shape \(3, 2, 8\), and the model of \(3, 4, 4\).* with the data of the model"
    with pytest.raises(FedsimError, match=message):
        draw(denoiser_for(NAME), draft=kept(tmp_path, 1, wide))


def test_a_draft_that_is_told_fewer_classes_is_refused_and_one_that_is_told_none_is_not(tmp_path: Path) -> None:
    model, two = patch_model(0, classes=True), InputSpec((3, 4, 4), 2, (0.0,) * 3, (1.0,) * 3)
    condition = Condition(((),), {"class": torch.tensor([2])})

    def drawn(draft: str) -> list[Generated]:
        return sample(make(NAME, draft=draft, prefill=0.0), model, condition, (3, 4, 4), sources(1))

    with pytest.raises(FedsimError, match=r"the draft is told 2 classes and the model 3.* one that is told no classes"):
        drawn(kept(tmp_path, 1, two, classes=True))
    assert drawn(kept(tmp_path, 1, two, classes=False))[0].ending == "finished"


def test_models_and_drafts_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="the model Denoiser predicts no noise of patches.*such as 'patch-diffusion'"):
        draw(Denoiser())
    with pytest.raises(FedsimError, match=r"the draft has 4 patches of 12 numbers and 6 noise levels, and the model 4"):
        draw(denoiser_for(NAME), draft=kept(tmp_path, 1, levels=6))
    with pytest.raises(FedsimError, match="no trained denoiser 'nobody'.* Known: digits-patches-draft"):
        draw(denoiser_for(NAME), draft="nobody")
    with pytest.raises(FedsimError, match=r"draws images of shape \(3, 4, 4\), and \(1, 4, 4\) is asked for"):
        draw(denoiser_for(NAME), shape=(1, 4, 4))
