"""Adapters that package peft saved: the scores are the package's, and what is no plain LoRA is named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedsim.components.core.low_rank import adapters_off
from fedsim.core.errors import FedsimError
from fedsim.generation.peft_folder import with_adapter
from tests.models.packaged import package_model

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft
TOKENS = torch.tensor([[1, 5, 2, 7]])


def saved(folder: Path, **settings: Any) -> Any:
    """Save an adapter of the package with factors that are not 0, and return the package's model."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **settings})
    model = peft.get_peft_model(package_model("Llama"), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(0))
    model.save_pretrained(folder)
    return model.eval()


class Wrapped(nn.Module):
    def __init__(self, own: Any) -> None:
        super().__init__()
        self.own = own

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.own(input_ids=tokens).logits


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True, "lora_dropout": 0.5, "target_modules": ["down_proj"]}])
def test_scores_are_those_of_the_package_and_without_the_adapter_those_of_the_base(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    theirs = saved(tmp_path, **settings)
    ours, base = with_adapter(Wrapped(package_model("Llama")), tmp_path), package_model("Llama").eval()
    assert not ours.training
    with torch.no_grad():
        tuned, plain = theirs(input_ids=TOKENS).logits, base(input_ids=TOKENS).logits
        torch.testing.assert_close(ours(TOKENS), tuned)
        with adapters_off(ours):
            torch.testing.assert_close(ours(TOKENS), plain)
    assert not torch.allclose(tuned, plain)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, "which is no factor of LoRA"),
        ({"rank_pattern": {"q_proj": 2}}, "has a rank_pattern: expected LoRA with the same rank"),
        ({"modules_to_save": ["lm_head"]}, "holds 'base_model.model.lm_head.weight', which is no factor of LoRA"),
    ],
)
def test_what_is_more_than_lora_is_named(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    saved(tmp_path, **settings)
    with pytest.raises(FedsimError, match=message):
        with_adapter(package_model("Llama"), tmp_path)


def test_folders_of_something_else_and_other_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match=r"no .*adapter_config\.json: expected the folder of an adapter"):
        with_adapter(package_model("Llama"), tmp_path)
    saved(tmp_path)
    with pytest.raises(FedsimError, match="belongs to a layer 'model.layers.0.self_attn.q_proj', which the model does"):
        with_adapter(nn.Linear(2, 2), tmp_path)
    with pytest.raises(FedsimError, match="is of a model of other sizes"):
        with_adapter(package_model("Llama", hidden_size=32), tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    for changed, message in (
        ({**settings, "peft_type": "IA3"}, "is of kind IA3: expected LoRA"),
        ({"peft_type": "LORA"}, "lacks the LoRA settings that package peft writes"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(changed))
        with pytest.raises(FedsimError, match=message):
            with_adapter(package_model("Llama"), tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(FedsimError, match="cannot be read"):
        with_adapter(package_model("Llama"), tmp_path)
