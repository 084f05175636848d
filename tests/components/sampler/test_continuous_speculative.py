"""Continuous speculative decoding: what it draws alone, its counts, and the law of two patches."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor, nn

from fedsim.components.sampler.continuous_speculative import ContinuousSpeculative
from fedsim.core import registry, seeding
from fedsim.core.denoisers import save_denoiser
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import GenerationInputs
from fedsim.core.types import Generated, InputSpec
from fedsim.generation import sample
from tests.components.generating import Denoiser, denoiser_for, make, sources
from tests.components.sampler.exact_head import learned

NAME = "continuous-speculative"
SPEC = InputSpec((3, 4, 4), 3, (0.0,) * 3, (1.0,) * 3)
SETTINGS = {"patch": 2, "width": 16, "blocks": 1, "hidden": 16, "head_width": 8, "head_layers": 1, "levels": 4}


BASE: Any = ContinuousSpeculative


class Drafted(BASE):
    """With a model that is at hand as the draft."""

    def __init__(self, config: Any, draft: nn.Module) -> None:
        super().__init__(config)
        self.draft = draft

    def start(self, model: nn.Module, condition: GenerationInputs, context: Any) -> Any:
        state = super().start(model, condition, context)
        return replace(state, drafts=(self.draft,) * len(state))


class Pair(nn.Module):
    """Two numbers side by side: the second one leans on the first. Of three levels, with deviations of their own."""

    shape, patches, size, levels = (1, 1, 2), 2, 1, 3

    def __init__(self, lean: float, std: float) -> None:
        super().__init__()
        self.lean, self.std = nn.Parameter(torch.tensor(lean)), std

    def conditions(self, patches: Tensor, labels: Tensor | None = None, order: Tensor | None = None) -> Tensor:
        return torch.cat((patches.new_ones(len(patches), 1, 1), self.lean * patches), 1)

    def reverse(self, x: Tensor, level: int, condition: Tensor) -> tuple[Tensor, Tensor]:
        return 0.5 * x + condition, torch.full_like(x, self.std)

    def cut(self, images: Tensor) -> Tensor:
        return images.view(-1, 2, 1)

    def join(self, patches: Tensor) -> Tensor:
        return patches.view(-1, 1, 1, 2)


class Leaning(Pair):
    """The same pair in any order: the number that comes second leans on the first, wherever it stands."""

    order = "random"


def patch_model(seed: int, spec: InputSpec = SPEC, **settings: Any) -> nn.Module:
    method = registry.get("model", "patch-diffusion")
    with seeding.isolate_randomness(seed):
        return method.make(method.config.model_validate({**SETTINGS, **settings}), spec)


def kept(folder: Path, seed: int, spec: InputSpec = SPEC, **settings: Any) -> str:
    folder.mkdir(exist_ok=True)
    save_denoiser(patch_model(seed, spec, **settings), {**SETTINGS, **settings}, spec, folder, "patch-diffusion")
    return str(folder)


def draw(model: nn.Module, count: int = 2, shape: tuple[int, ...] = (3, 4, 4), **settings: Any) -> list[Generated]:
    return sample(make(NAME, **settings), model, GenerationInputs(((),) * count), shape, sources(count))


def test_without_drafts_it_is_the_model_alone_whichever_way_that_is_said() -> None:
    model = denoiser_for(NAME)
    alone, filled = draw(model, length=0), draw(model, prefill=1.0)
    for first, second in zip(alone, filled, strict=True):
        assert first.x is not None
        assert second.x is not None
        assert torch.equal(first.x, second.x)
        assert first.trace.series()["passes"] == (1, 1, 1, 1)


@pytest.mark.paper_step("continuous-speculative", "shared noise of all steps but the last")
def test_a_model_that_drafts_for_itself_accepts_every_patch() -> None:
    (own,) = draw(denoiser_for(NAME), 1, length=2, prefill=0.0)
    assert own.trace.series() == {"drafted": (2, 1), "accepted": (2, 1), "passes": (1, 1), "tries": (0, 0)}


@pytest.mark.paper_step("continuous-speculative", "acceptance of a draft by the ratio of densities")
def test_another_draft_is_accepted_in_part_and_the_trace_says_how_much(tmp_path: Path) -> None:
    own = draw(denoiser_for(NAME), 12, draft=kept(tmp_path, 7), length=3, prefill=0.0)
    series = [one.trace.series() for one in own]
    assert all(sum(a + (a < d or d < 3) for a, d in zip(s["accepted"], s["drafted"], strict=True)) >= 3 for s in series)
    assert any(a < d for s in series for a, d in zip(s["accepted"], s["drafted"], strict=True))
    for s in series:
        assert all((a == d) == (t == 0) for a, d, t in zip(s["accepted"], s["drafted"], s["tries"], strict=True))


def test_with_learned_variances_the_rule_of_the_paper_drops_drafts_that_the_exact_one_keeps() -> None:
    def stand(rule: str) -> int:
        method = Drafted(make(NAME, length=1, prefill=0.0, rule=rule).config, learned(0.4))
        found = sample(method, learned(0.8), GenerationInputs(((),) * 100), (1, 1, 1), sources(100))
        return sum(own.trace.series()["accepted"][0] for own in found)

    assert stand("paper") < stand("exact") < 100


@pytest.mark.paper_step("continuous-speculative", "draw from the rest of the density by rejection")
@pytest.mark.slow
def test_two_patches_have_the_joint_law_of_the_model() -> None:
    target, draft, count = Pair(0.8, 0.6), Pair(-0.5, 0.7), 3000
    method = make(NAME, length=2, prefill=0.0)

    def numbers(sampler: Any, seed: int) -> Tensor:
        samples = sample(
            sampler, target, GenerationInputs(((),) * count), (1, 1, 2), sources(count, seed), batch_size=500
        )
        return torch.stack([own.x for own in samples if own.x is not None])[:, 0, 0]

    class Keeping(Drafted):
        """Keeps the second draft behind a first one that fell, which is wrong."""

        def _judged(self, row: Any, drafted: Tensor, *given: Any) -> Any:
            own, event = super()._judged(row, drafted, *given)
            return torch.cat((own, drafted[len(own) :])), event

    plain = numbers(make(NAME, length=0), 1)

    def distances(speculated: Tensor) -> list[float]:
        found = []
        for weights in ((1.0, 0.0), (0.0, 1.0), (1.0, -1.0), (1.0, 1.0)):
            one, other = (own @ torch.tensor(weights) for own in (plain, speculated))
            result: Any = ks_2samp(one.numpy(), other.numpy())
            found.append(result.statistic)
        return found

    bound = 1.63 * math.sqrt(2 / count)  # of two samples, 1 in 100
    assert max(distances(numbers(Drafted(method.config, draft), 2))) < bound
    assert max(distances(numbers(Keeping(method.config, draft), 2))) > 2 * bound


def pairs(count: int, target: nn.Module, draft: nn.Module, **settings: Any) -> Tensor:
    method = Drafted(make(NAME, length=2, prefill=0.0, **settings).config, draft)
    found = sample(method, target, GenerationInputs(((),) * count), (1, 1, 2), sources(count, 3), batch_size=500)
    return torch.stack([own.x for own in found if own.x is not None])[:, 0, 0]


def moments(lean: float, std: float) -> tuple[float, float]:
    """Mean and variance of a number whose condition is `lean`: three steps x <- x / 2 + lean + std e from N(0, 1)."""
    mean, variance = 0.0, 1.0
    for _ in range(3):
        mean, variance = 0.5 * mean + lean, 0.25 * variance + std**2
    return mean, variance


@pytest.mark.paper_step("continuous-speculative", "the same random order for both models")
@pytest.mark.slow
def test_in_random_order_either_number_comes_first_and_the_law_is_that_of_the_model() -> None:
    count, lean = 3000, 0.8
    found = pairs(count, Leaning(lean, 0.6), Leaning(-0.5, 0.7))
    # The first has condition 1 and mean m; the second's mean is 1.75 lean times the first one.
    mean, variance = moments(1.0, 0.6)
    factor = 1.75 * lean
    cross = factor * (variance + mean**2)
    both, products = found.mean(1), found.prod(1)
    assert abs(float(both.mean()) - (1 + factor) * mean / 2) < 4 * float(both.std()) / math.sqrt(count)
    assert abs(float(products.mean()) - cross) < 4 * float(products.std()) / math.sqrt(count)
    apart = found[:, 0] - found[:, 1]  # of mean 0, since each place is as often the first
    assert abs(float(apart.mean())) < 4 * float(apart.std()) / math.sqrt(count)


@pytest.mark.paper_step("continuous-speculative", "a block that is verified at once, in place")
@pytest.mark.slow
def test_a_block_has_the_law_of_a_model_that_draws_its_places_beside_each_other() -> None:
    count, std = 3000, 0.6
    found = pairs(count, Leaning(0.8, std), Leaning(-0.5, 0.7), mode="block")
    mean, variance = moments(1.0, std)  # both are given what stands before the block: nothing
    centred = found - mean
    for values, truth in ((found, mean), (centred.square(), variance), (centred.prod(1, keepdim=True), 0.0)):
        for column in values.T:
            assert abs(float(column.mean()) - truth) < 4 * float(column.std()) / math.sqrt(count)


def test_a_block_draws_what_falls_in_its_place_and_takes_one_pass_of_either_model() -> None:
    model, draft = (patch_model(seed, order="random") for seed in (0, 7))
    passes = {"model": 0, "draft": 0}
    for name, own in (("model", model), ("draft", draft)):
        block: Any = own.get_submodule("blocks.0")
        block.register_forward_hook(lambda *_, name=name: passes.update({name: passes[name] + 1}))
    method = Drafted(make(NAME, length=2, prefill=0.0, mode="block").config, draft)
    found = sample(method, model, GenerationInputs(((),) * 6), (3, 4, 4), sources(6))
    for own in found:
        series = own.trace.series()
        assert series["drafted"] == (2, 2), "no later patch is dropped"
        assert all((a == 2) == (t == 0) for a, t in zip(series["accepted"], series["tries"], strict=True))
    assert any(sum(own.trace.series()["accepted"]) < 4 for own in found)
    assert passes == {"model": 2, "draft": 2}


@pytest.mark.paper_step("continuous-speculative", "drafts of all images in a single batch")
def test_images_of_a_batch_are_drafted_and_read_together() -> None:
    model = patch_model(0)
    draft: Any = copy.deepcopy(model)
    draft.head.leave.bias.data.mul_(0.95)  # near enough that some drafts stand
    seen: list[tuple[str, int]] = []
    for name, own in (("model", model), ("draft", draft)):
        block: Any = own.get_submodule("blocks.0")
        block.register_forward_hook(lambda _module, given, _output, name=name: seen.append((name, len(given[0]))))
    method = Drafted(make(NAME, length=2, prefill=0.0).config, draft)
    found = sample(method, model, GenerationInputs(((),) * 5), (3, 4, 4), sources(5), batch_size=5)
    steps = max(len(own.trace.events) for own in found)
    assert len({len(own.trace.events) for own in found}) > 1, "images need different numbers of steps"
    assert seen[:3] == [("draft", 5), ("draft", 5), ("model", 5)]
    assert sum(name == "model" for name, _ in seen) == steps
    assert sum(name == "draft" for name, _ in seen) <= 2 * steps


def test_a_block_needs_a_model_of_random_order_and_a_draft_the_same_order(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="predicts only the next position. Train a model with model.order = 'random'"):
        draw(patch_model(0), mode="block")
    with pytest.raises(FedsimError, match="the draft draws in order 'reading', and the model in order 'random'"):
        draw(patch_model(0, order="random"), draft=kept(tmp_path, 1))
    (own, *_) = draw(patch_model(0, order="random"), draft=kept(tmp_path / "other", 1, order="random"))
    assert own.ending == "finished"


def test_a_draft_of_images_of_another_shape_is_refused(tmp_path: Path) -> None:
    wide = InputSpec((3, 2, 8), 3, (0.0,) * 3, (1.0,) * 3)  # as many patches of the same size
    message = r"the draft draws images of shape \(3, 2, 8\), and the model of \(3, 4, 4\).* with the data of the model"
    with pytest.raises(FedsimError, match=message):
        draw(denoiser_for(NAME), draft=kept(tmp_path, 1, wide))


def test_a_draft_that_is_told_fewer_classes_is_refused_and_one_that_is_told_none_is_not(tmp_path: Path) -> None:
    model, two = patch_model(0, classes=True), InputSpec((3, 4, 4), 2, (0.0,) * 3, (1.0,) * 3)
    condition = GenerationInputs(((),), {"class": torch.tensor([2])})

    def drawn(draft: str) -> list[Generated]:
        return sample(make(NAME, draft=draft, prefill=0.0), model, condition, (3, 4, 4), sources(1))

    with pytest.raises(
        FedsimError, match=r"the draft is conditioned on 2 classes and the model on 3.* a draft without classes"
    ):
        drawn(kept(tmp_path, 1, two, classes=True))
    assert drawn(kept(tmp_path, 1, two, classes=False))[0].ending == "finished"


def test_models_and_drafts_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="the model Denoiser predicts no noise of patches.*such as 'patch-diffusion'"):
        draw(Denoiser())
    with pytest.raises(FedsimError, match=r"the draft has 4 patches of 12 numbers and 6 noise levels, and the model 4"):
        draw(denoiser_for(NAME), draft=kept(tmp_path, 1, levels=6))
    with pytest.raises(FedsimError, match="no trained denoiser 'nobody'.* digits-patches-draft"):
        draw(denoiser_for(NAME), draft="nobody")
    with pytest.raises(
        FedsimError, match=r"generates images of shape \(3, 4, 4\), but shape \(1, 4, 4\) was requested"
    ):
        draw(denoiser_for(NAME), shape=(1, 4, 4))
