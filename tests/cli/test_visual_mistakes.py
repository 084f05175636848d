"""What goes wrong with images, questions and samplers, as the command line tells it: one sentence, exit code 2."""

import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tests.cli.typed import Say

GRIDS = {"name": "digit-grids", "source": "digits", "train": 8, "test": 4}
SMALL = {
    "name": "tiny-vlm",
    "encoder_width": 16,
    "encoder_hidden": 16,
    "encoder_blocks": 2,
    "width": 16,
    "hidden": 16,
    "blocks": 4,
}
LLAVA = """
import torch
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from fedsim.core.registry import for_scenarios
from fedsim.models.llava import Llava

IMAGE, PATCHES = 50, {patches}


class Asking(nn.Module):
    def __init__(self):
        super().__init__()
        heads = {{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}}
        vision = CLIPVisionConfig(**heads, image_size={side}, patch_size=14)
        config = LlavaConfig(
            vision_config=vision, text_config=LlamaConfig(vocab_size=60, **heads), image_token_id=IMAGE
        )
        self.own = Llava(LlavaForConditionalGeneration._from_config(config, attn_implementation="eager"))

    def forward(self, images, question, answer):
        tokens = torch.full((len(question), PATCHES), IMAGE)
        tokens[0, 0] = {first}
        return self.own(images.expand(-1, 3, -1, -1), torch.cat((question * 0, tokens), 1), answer)


@for_scenarios
def make(spec):
    return Asking()
"""


@pytest.fixture
def complaint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Say) -> Any:
    """Run a scenario that is wrong in one place, and return what standard error says of it."""
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(**tables: dict[str, Any] | list[dict[str, Any]]) -> str:
        federation = {"clients": 2, "batch_size": 2}
        wrong = {"title": "t", "data": GRIDS, "model": SMALL, "federation": federation, **tables}
        (tmp_path / "s.toml").write_text(tomli_w.dumps(wrong))
        code, out, errors = command("run", "s.toml", "--out", "out")
        assert code == 2
        assert "round 1" not in out + errors
        assert len(errors.strip().splitlines()) == 1
        assert not (tmp_path / "out" / "record.json").exists()
        return errors.strip()

    return run


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ({"name": "cls-topk", "kept": 65}, "kept is 65, and an image has 64 visual tokens: expected at most as many"),
        ({"name": "random-tokens", "kept": 65}, "kept is 65, and an image has 64 visual tokens"),
        ({"name": "oracle-tokens", "kept": 65}, "kept is 65, and an image has 64 visual tokens"),
        ({"name": "attention-topk", "kept": 65}, "kept is 65, and an image has 64 visual tokens"),
        ({"name": "attention-topk", "layer": 3}, "layer is 3, and the language model has layers 0 to 3"),
        ({"name": "pyramid-drop", "layers": [2, 4]}, "layers is (2, 4), expected ascending numbers from 1 to 3"),
        ({"name": "pyramid-drop", "layers": [2, 3], "shares": [1.5, 0.5]}, "expected numbers of at most 1"),
        ({"name": "must-drop", "layers": [1, 3]}, "layers is (1, 3), expected ascending numbers from 1 to 2"),
        ({"name": "must-drop", "layers": [1], "window": 3}, "windows of 3 x 3 do not tile 8 x 8 patches"),
        ({"name": "rcp", "layers": [1, 4], "repairs": [2]}, "layers is (1, 4), expected ascending numbers from 1 to 3"),
        ({"name": "rcp", "layers": [1], "repairs": [4]}, "repairs is (4,), expected ascending numbers from 1 to 3"),
        ({"name": "rcp", "layers": [1], "repairs": [2], "weights": "rcp-50"}, "fedsim bench model rcp-50"),
    ],
)
def test_tokens_and_stages_that_are_not_there(complaint: Any, component: dict[str, Any], message: str) -> None:
    told = complaint(components=[component])
    assert told.startswith(f"component '{component['name']}'")
    assert message in told


def test_two_token_reducers_at_once(complaint: Any) -> None:
    told = complaint(components=[{"name": "cls-topk"}, {"name": "attention-topk", "layer": 1}])
    assert told.startswith("component 'attention-topk': the model has a token reducer already")
    assert told.endswith("Remove either.")


def test_a_model_without_image_tokens(complaint: Any) -> None:
    digits = {"data": {"name": "digits"}, "model": {"name": "mlp"}}
    for name in ("cls-topk", "rcp"):
        told = complaint(**digits, components=[{"name": name}])
        assert told.startswith(f"component '{name}' leaves visual tokens out, and model Sequential has none. Choose")
    told = complaint(model={"name": "mlp"})
    assert told.startswith("task 'visual-question-answering' does not fit model 'mlp': the model has no image tokens")
    assert 'model.name = "tiny-vlm"' in told


def test_images_of_another_size(complaint: Any) -> None:
    told = complaint(data={"name": "digits"})
    assert told.startswith("model 'tiny-vlm' cuts images into 7 x 7 patches, got 8 x 8 pixels. Set model.patch")
    told = complaint(data={"name": "digits"}, model={**SMALL, "patch": 2})
    assert 'Set data.name = "digit-grids".' in told
    assert "trained weights found. Train them: fedsim bench model digit-grids" in complaint(
        model={"name": "tiny-vlm", "trained": True}
    )


@pytest.mark.parametrize(
    ("side", "patches", "first", "message"),
    [
        (56, 16, 3, "prompts of a batch hold unequal numbers of image tokens, [15, 16]: expected 16 in each"),
        (56, 15, 50, "a prompt holds 15 image tokens (number 50): expected 16"),
        (28, 4, 50, "LLaVA reads images of 28 x 28 pixels, got (56, 56). Resize them"),
    ],
)
def test_prompts_that_do_not_fit_their_images(
    complaint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, patches: int, first: int, message: str
) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "own_llava.py").write_text(LLAVA.format(side=side, patches=patches, first=first))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_llava", raising=False)
    told = complaint(model={"name": "own_llava:make"})
    assert told.startswith("model 'own_llava:make' fails on 2 examples of shape (1, 56, 56): ")
    assert message in told


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"task": {"name": "denoising"}, "model": {"name": "mlp"}},
            "task 'denoising' does not fit model 'mlp': the model predicts no noise",
        ),
        (
            {"task": {"name": "denoising", "classes": True}, "model": {"name": "edm-unet", "width": 8, "blocks": 1}},
            "task 'denoising' does not fit model 'edm-unet': 'classes' is true, and the model has no class input",
        ),
        (
            {"task": {"name": "next-patch"}, "model": {"name": "mlp"}},
            "task 'next-patch' does not fit model 'mlp': the model predicts no noise of patches",
        ),
        (
            {"model": {"name": "mlp"}, "generation": {"decoder": {"name": "heun"}, "samples": 2}},
            "generation: the model Sequential predicts no noise, so it cannot generate samples",
        ),
        (
            {"model": {"name": "mlp"}, "generation": {"decoder": {"name": "skip-tuning"}, "samples": 2}},
            "generation: the model Sequential predicts no noise, so it cannot generate samples",
        ),
        (
            {
                "task": {"name": "denoising"},
                "model": {"name": "edm-unet", "width": 8, "blocks": 1},
                "generation": {"decoder": {"name": "euler", "guidance": 2.0}, "samples": 2},
            },
            "generation: guidance compares predictions with and without a class, and model EdmUnet has no classes",
        ),
        (
            {
                "task": {"name": "denoising"},
                "model": {"name": "edm-unet", "width": 8, "blocks": 1},
                "generation": {"decoder": {"name": "continuous-speculative"}, "samples": 2},
            },
            "generation: the model EdmUnet predicts no noise of patches, so the sampler cannot draft for it",
        ),
    ],
)
def test_samplers_and_tasks_of_noise_that_do_not_fit(complaint: Any, tables: dict[str, Any], message: str) -> None:
    assert complaint(data={"name": "digits"}, **tables).startswith(message)
