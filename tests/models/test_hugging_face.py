"""Checkpoints of the transformers package: loaded, trained by name, or refused."""

from pathlib import Path

import pytest
import torch

from fedsim.core.errors import FedsimError
from tests.models.llamas import build, reference, spec, tokens


@pytest.mark.parametrize("tied", [False, True])
def test_a_local_checkpoint_is_loaded_and_trained_by_name(tied: bool, tmp_path: Path) -> None:
    theirs = reference(tied)
    theirs.save_pretrained(tmp_path)
    ours = build("hugging-face", path=tmp_path)
    assert torch.allclose(ours(tokens()), theirs(tokens()).logits, atol=1e-6)
    weights = ours.state_dict()
    assert weights.keys() == dict(ours.named_parameters()).keys()
    assert ("own.lm_head.weight" in weights) is not tied


def test_unusable_checkpoints_are_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match=r"no .*config\.json"):
        build("hugging-face", path=tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "auto_map": {"AutoModel": "x.py"}}')
    with pytest.raises(FedsimError, match="wants to run its own code"):
        build("hugging-face", path=tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FedsimError, match=r"holds no \.safetensors file"):
        build("hugging-face", path=tmp_path)
    reference().save_pretrained(tmp_path)
    with pytest.raises(FedsimError, match="the tokenizer has 12 tokens, the model in .* only 11"):
        build("hugging-face", spec(vocabulary=12), path=tmp_path)
    with pytest.raises(FedsimError, match=r"data\.length is 33, expected at most 32"):
        build("hugging-face", spec(length=33), path=tmp_path)
    (tmp_path / "config.json").write_text("no json")
    with pytest.raises(FedsimError, match="is not JSON"):
        build("hugging-face", path=tmp_path)
