"""The benchmark of accepted drafts: what is turned, what is trained on, and what is counted."""

from pathlib import Path

import torch

from benchmarks.accepted_drafts import accepted, trained_on, turned
from fedsim.core import registry, seeding
from fedsim.core.denoisers import save_denoiser
from fedsim.core.types import Batch, Dataset, InputSpec

SPEC = InputSpec((1, 4, 4), 3, (0.0,), (1.0,))
SIZES = {"patch": 2, "width": 16, "blocks": 1, "hidden": 16, "head_width": 8, "head_layers": 1, "levels": 4}
DATA = Batch(torch.randn(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3)
IMAGES = Dataset(DATA, DATA, SPEC, ("a", "b", "c"))


def small(seed: int = 0) -> torch.nn.Module:
    method = registry.get("model", "patch-diffusion")
    with seeding.isolate_randomness(seed):
        return method.make(method.config.model_validate({**SIZES, "classes": True}), SPEC)


def test_one_class_is_upside_down_and_the_test_images_are_not() -> None:
    own = turned(IMAGES, 1)
    is_turned = own.train.labels == 1
    assert torch.equal(own.train.inputs[is_turned], DATA.inputs[is_turned].flip(2))
    assert torch.equal(own.train.inputs[~is_turned], DATA.inputs[~is_turned])
    assert torch.equal(own.test.inputs, DATA.inputs)


def test_a_copy_is_trained_on_and_a_model_that_drafts_for_itself_accepts_all(tmp_path: Path) -> None:
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    new = trained_on("digits-patches", model, turned(IMAGES, 1), 2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in new.state_dict().items())
    save_denoiser(new, {**SIZES, "classes": True}, SPEC, tmp_path, "patch-diffusion")
    assert accepted(new, SPEC.shape, tmp_path, [0, 1], 1.0) == [1.0, 1.0]
    shares = accepted(small(1), SPEC.shape, tmp_path, [0, 1, 2, 1], 1.0)
    assert all(0 <= share <= 1 for share in shares)
    assert min(shares) < 1
