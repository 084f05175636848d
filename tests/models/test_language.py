"""Taggers of both families against the transformers package."""

from pathlib import Path

import pytest
import torch

from tests.models.llamas import SIZES, TAGS, build, reference, tokens, transformers


@pytest.mark.parametrize("tied", [False, True])
def test_a_tagger_is_that_of_the_transformers_package(tied: bool, tmp_path: Path) -> None:
    language_model = reference(tied)
    language_model.save_pretrained(tmp_path)
    theirs = transformers.LlamaForTokenClassification(
        transformers.LlamaConfig(**{**language_model.config.to_dict(), "num_labels": 3})
    ).eval()
    theirs.model.load_state_dict(language_model.model.state_dict())
    for name in ("tiny-llama", "hugging-face"):
        ours = build(name, TAGS, **(SIZES if name == "tiny-llama" else {"path": tmp_path})).eval()
        before = "" if name == "tiny-llama" else "own.model."
        weights = {before + k: v for k, v in theirs.model.state_dict().items()}
        head = "lm_head.score" if name == "tiny-llama" else "own.lm_head.score"
        weights |= {f"{head}.{k}": v for k, v in theirs.score.state_dict().items()}
        ours.load_state_dict(weights)
        assert torch.allclose(ours(tokens()), theirs(tokens()).logits, atol=1e-5)
        assert ours.padding_token == 0
