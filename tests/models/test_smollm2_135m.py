"""The real model: its weights and its tokenizer are those of the package, and it says something sensible."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.nets.losses import cross_entropy
from fedsim.core.types import InputSpec
from fedsim.data._tokenizer import ModelTokenizer
from fedsim.data.text_file import TextFileConfig, text_file
from fedsim.models._checkpoint import CausalModel
from tests.components.generating import greedy

TOKENS = 49_152
QUESTION = "The capital of France is"


def spec(length: int = 8, vocabulary: int = TOKENS) -> InputSpec:
    return InputSpec((length,), vocabulary, (), (), vocabulary=vocabulary)


def build(about: InputSpec) -> nn.Module:
    method = registry.get("model", "smollm2-135m")
    return method.make(method.config(), about)


@pytest.fixture(scope="module")
def model(smollm2: Path) -> nn.Module:
    return build(spec()).eval()


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> ModelTokenizer:
    return ModelTokenizer(smollm2)


def test_it_knows_the_capital_of_france(model: nn.Module, tokenizer: ModelTokenizer) -> None:
    with torch.no_grad():
        scores = model(torch.tensor([tokenizer.encode(QUESTION)]))
    assert tokenizer.decode([int(scores[0, -1].argmax())]) == " Paris"


def test_scores_are_those_of_the_package(model: nn.Module, smollm2: Path, tokenizer: ModelTokenizer) -> None:
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    tokens = torch.tensor([tokenizer.encode(QUESTION)])
    with torch.no_grad():
        assert torch.allclose(model(tokens), theirs(tokens).logits, atol=1e-3)


@pytest.mark.slow
def test_greedy_text_is_that_of_the_package_with_and_without_kept_keys(
    model: nn.Module, smollm2: Path, tokenizer: ModelTokenizer
) -> None:
    from transformers import AutoModelForCausalLM

    assert isinstance(model, CausalModel)
    tokens = torch.tensor([tokenizer.encode(QUESTION), tokenizer.encode("She opened the old door")])
    written = model.generate_greedy(tokens, 6)
    theirs = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    asked = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6}
    assert torch.equal(written, theirs.generate(tokens, attention_mask=torch.ones_like(tokens), **asked)[:, 5:])
    with torch.no_grad():
        for _ in range(6):
            tokens = torch.cat((tokens, model(tokens)[:, -1:].argmax(-1)), 1)
    assert torch.equal(written, tokens[:, 5:])
    assert greedy(model, tokens[:, :5].tolist(), 6) == written.tolist()
    assert model.generate_greedy(tokens, 0).shape == (2, 0)
    weight = model.get_parameter("own.model.norm.weight")
    (gradient,) = torch.autograd.grad(cross_entropy(model(written), written), weight)
    assert bool(gradient.isfinite().all())


def test_its_size_and_names_are_those_of_a_llama(model: nn.Module) -> None:
    parameters = dict(model.named_parameters())
    assert sum(p.numel() for p in parameters.values()) == 134_515_008
    assert parameters["own.model.layers.29.self_attn.k_proj.weight"].shape == (192, 576)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in parameters.values())
    assert not any("lm_head" in name for name in model.state_dict())


def test_padding_behind_the_end_changes_no_gradient(model: nn.Module, tokenizer: ModelTokenizer) -> None:
    def gradient(inputs: Tensor, labels: Tensor) -> Tensor:
        weight = model.get_parameter("own.model.layers.0.self_attn.v_proj.weight")
        return torch.autograd.grad(cross_entropy(model(inputs), labels), weight)[0]

    tokens = torch.tensor([[*tokenizer.encode(QUESTION), tokenizer.end]])
    short = gradient(tokens[:, :-1], tokens[:, 1:])
    filled = torch.full((1, 2), tokenizer.padding), torch.full((1, 2), -100)
    longer = gradient(torch.cat((tokens[:, :-1], filled[0]), 1), torch.cat((tokens[:, 1:], filled[1]), 1))
    assert torch.allclose(longer, short, atol=1e-5 * float(short.abs().max()))


def test_a_text_set_takes_its_tokenizer_by_name(smollm2: Path, tokenizer: ModelTokenizer, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(f"Nobody counts the {n} green hills." for n in range(4)))
    dataset = text_file(TextFileConfig(path=tmp_path / "text.txt", tokenizer="smollm2-135m", length=12))
    assert dataset.spec.vocabulary == TOKENS
    assert dataset.tokenizer is not None
    assert dataset.tokenizer.decode(dataset.train.inputs[0].tolist()).startswith("Nobody counts the ")
    assert dataset.tokenizer.encode("green hills") == tokenizer.encode("green hills")


def test_another_tokenizer_and_images_are_one_clear_sentence(smollm2: Path) -> None:
    with pytest.raises(FedsimError, match=r'has 49152 tokens, the tokenizer 300: .*data\.tokenizer = "smollm2-135m"'):
        build(spec(vocabulary=300))
    with pytest.raises(FedsimError, match="model 'smollm2-135m' reads text"):
        build(InputSpec((3, 8, 8), 10, (0.0,) * 3, (1.0,) * 3))
    with pytest.raises(FedsimError, match=r"data\.length is 9000, expected at most 8192"):
        build(spec(length=9000))
