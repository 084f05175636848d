"""Clipped gradients of language models and adapters, against a loop over the sentences."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.components.adapter.allora import Allora, AlloraConfig
from fedsim.components.adapter.lora import Lora, LoraConfig
from fedsim.core import registry
from fedsim.core.nets.losses import IGNORED, compute_example_losses
from fedsim.core.nets.masks import keep_masks
from fedsim.core.types import Batch, InputSpec
from fedsim.models._checkpoint import CausalModel
from fedsim.privacy.per_example import Mode, cheapest, sum_clipped, why_inseparable

SPEC = InputSpec((6,), 11, (), (), vocabulary=11)
MODES: list[Mode] = ["hooks", "functorch", "ghost"]
TARGETS = ["*.q_proj", "*.v_proj"]


def plain(**settings: Any) -> nn.Module:
    method = registry.get("model", "tiny-llama")
    torch.manual_seed(0)
    return method.make(method.config.model_validate({"width": 16, "hidden": 16, **settings}), SPEC)


def moved(model: nn.Module) -> nn.Module:
    """With adapters that are no longer zero."""
    for name, parameter in model.named_parameters():
        if "lora_b" in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    return model


def with_lora(**settings: Any) -> nn.Module:
    config = LoraConfig.model_validate({"targets": TARGETS, "rank": 3, **settings})
    return moved(Lora(config).prepare(plain(), torch.Generator().manual_seed(0)))


def with_allora(**settings: Any) -> nn.Module:
    config = AlloraConfig.model_validate({"targets": TARGETS, "rank": 3, **settings})
    return moved(Allora(config).prepare(plain(), torch.Generator().manual_seed(0)))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "whole": plain,
    "whole with dropout": lambda: plain(dropout=0.2),
    "lora": with_lora,
    "lora with dropout": lambda: with_lora(dropout=0.2),
    "lora, b alone": lambda: with_lora(trains="b"),
    "allora": with_allora,
    "allora, own outputs": lambda: with_allora(dependence="output"),
    "allora, a frozen layer trained too": lambda: with_allora(also_train=["*.q_proj.base.weight"]),
    "allora, rows of B": lambda: with_allora(norm="B"),
}


def sentences(examples: int = 4) -> Batch:
    numbers = torch.Generator().manual_seed(2)
    tokens = torch.randint(11, (examples, 7), generator=numbers)
    labels = tokens[:, 1:].clone()
    labels[0, 3:] = IGNORED
    return Batch(tokens[:, :-1].contiguous(), labels)


def losses_of(model: nn.Module, batch: Batch) -> Callable[[], Tensor]:
    return lambda: compute_example_losses(model(batch.inputs), batch.labels)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)
def test_clipped_gradients_and_each_norm_are_those_of_a_loop_over_the_sentences(name: str, mode: Mode) -> None:
    model, batch = MODELS[name]().double(), sentences()
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    with keep_masks(torch.Generator().manual_seed(3)):
        each = losses_of(model, batch)()
    alone = [torch.autograd.grad(loss, list(parameters.values()), retain_graph=True) for loss in each]
    norms = torch.stack([torch.cat([g.flatten() for g in own]).norm() for own in alone])
    clip = float(norms.median())
    assert float(norms.min()) < clip < float(norms.max())
    factors = (clip / norms).clamp_max(1.0)
    with keep_masks(torch.Generator().manual_seed(3)):
        found, total = sum_clipped(model, parameters, losses_of(model, batch), clip, mode)
    assert torch.allclose(found, each)
    for index, parameter in enumerate(parameters):
        expected = sum(factor * own[index] for factor, own in zip(factors, alone, strict=True))
        assert torch.allclose(total[parameter], expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_sentences_can_be_told_apart_and_the_cheapest_way_is_by_norms(name: str) -> None:
    model = MODELS[name]().train()
    assert cheapest(model) == "ghost"
    for mode in MODES:
        assert why_inseparable(model, sentences(), mode) is None


@pytest.mark.parametrize("mode", MODES)
def test_an_output_layer_that_is_the_embedding_is_refused(mode: Mode) -> None:
    assert "another layer's parameters" in (why_inseparable(plain(tied=True).train(), sentences(), mode) or "")


def test_models_of_the_transformers_package_can_be_told_apart_in_every_mode() -> None:
    """Their norms compute in single precision, whatever the rest does."""
    transformers = pytest.importorskip("transformers")
    settings = {"vocab_size": 11, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "attn_implementation": "eager"}
    torch.manual_seed(0)
    llama_for_causal_lm = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**settings, **heads, tie_word_embeddings=True)
    )
    config = LoraConfig.model_validate({"targets": TARGETS, "rank": 3, "dropout": 0.1})
    adapted = Lora(config).prepare(CausalModel(llama_for_causal_lm, SPEC), torch.Generator().manual_seed(0)).train()
    assert [why_inseparable(adapted, sentences(), mode) for mode in MODES] == [None] * 3


class Reader(nn.Module):
    """An embedding whose norms may be limited, before a dense head for each token."""

    def __init__(self, max_norm: float | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.head = nn.Embedding(11, 4, max_norm=max_norm), nn.Linear(4, 11)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tokens(x))


class Shrinking(nn.Linear):
    """A layer that is no embedding and changes its weight by the inputs."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.mul_(1 - 1e-3 * input.abs().max().clamp(max=1))
        return super().forward(input)


@pytest.mark.parametrize("mode", MODES)
def test_an_embedding_that_renormalises_the_rows_of_a_batch_is_refused_by_the_name_of_its_parameter(mode: Mode) -> None:
    longest = float(Reader(None).tokens.weight.detach().norm(dim=1).max())
    for limit in (0.1, 1.0, longest * 100):  # training can lengthen rows that no limit shortens now
        assert "the parameter 'tokens.weight'" in (why_inseparable(Reader(limit).train(), sentences(), mode) or "")
    assert why_inseparable(Reader(None).train(), sentences(), mode) is None


def test_a_frozen_embedding_that_is_renormalised_is_refused_too() -> None:
    model = Reader(0.1).train()
    model.tokens.requires_grad_(requires_grad=False)
    assert "the parameter 'tokens.weight'" in (why_inseparable(model, sentences(), "hooks") or "")


def test_any_layer_that_changes_a_parameter_in_a_forward_pass_is_refused_and_the_model_left_as_it_was() -> None:
    model = nn.Sequential(nn.Embedding(11, 4), Shrinking(4, 4), nn.Linear(4, 11)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert "the parameter '1.weight'" in (why_inseparable(model, sentences(), "hooks") or "")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
