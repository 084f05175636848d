"""Models of the transformers package in our form: texts go on by the highest score, and unfit folders are told."""

from pathlib import Path

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.models._checkpoint import CausalModel, causal_model, load
from fedsim.models._language import TaggingHead, TiedHead
from tests.models.llamas import SIZES, TAGS, VOCABULARY, reference, spec, tokens


def test_a_text_goes_on_with_the_token_of_the_highest_score() -> None:
    model = CausalModel(reference(), spec()).eval()
    text = tokens()[:, :3]
    for _ in range(4):
        with torch.no_grad():
            text = torch.cat((text, model(text)[:, -1].argmax(-1, keepdim=True)), 1)
    assert torch.equal(model.generate_greedy(tokens()[:, :3], 4), text[:, 3:])
    assert model.generate_greedy(tokens(), 0).shape == (3, 0)


@pytest.mark.parametrize("tied", [False, True])
def test_the_output_layer_is_ours_where_it_is_tied_or_scores_tags(tied: bool) -> None:
    model = CausalModel(reference(tied), spec())
    assert model.vocabulary_size == VOCABULARY
    kinds = [type(module) for module in model.modules()]
    assert (TiedHead in kinds) is tied
    assert len({id(p) for p in model.parameters()}) == len(list(model.named_parameters()))
    tagger = CausalModel(reference(tied), TAGS)
    assert isinstance(tagger.own.get_output_embeddings(), TaggingHead)


def test_a_folder_without_a_checkpoint_and_a_short_context_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="cannot be loaded"):
        load("AutoModelForCausalLM", tmp_path)
    reference().save_pretrained(tmp_path)
    assert causal_model(tmp_path, spec()).vocabulary_size == VOCABULARY
    with pytest.raises(FedsimError, match=r"data\.length is 33, expected at most 32, the context of the model"):
        causal_model(tmp_path, spec(length=33))
    assert SIZES["width"] == load("AutoModelForCausalLM", tmp_path).config.hidden_size
