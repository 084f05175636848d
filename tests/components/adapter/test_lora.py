"""LoRA against its formula, against peft, and inside a federation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.components.adapter.lora import Lora, LoraConfig, LoraLinear
from fedsim.components.core.low_rank import merge_adapters
from fedsim.core import registry
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.masks import dropout_sites
from fedsim.core.types import InputSpec
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds

SPEC = InputSpec((6,), 11, (), (), vocabulary=11)
TARGETS = ("*.q_proj", "*.v_proj")


def language_model() -> nn.Module:
    method = registry.get("model", "tiny-llama")
    return method.make(method.config.model_validate({"width": 16, "hidden": 16}), SPEC)


def adapted(model: nn.Module, **settings: Any) -> nn.Module:
    config = LoraConfig.model_validate({"targets": TARGETS, "rank": 3, **settings})
    return Lora(config).prepare(model, torch.Generator().manual_seed(0))


def trained(model: nn.Module) -> nn.Module:
    """With adapters that are no longer zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return model


def tokens() -> Tensor:
    return torch.randint(11, (2, 6), generator=torch.Generator().manual_seed(0))


@pytest.mark.paper_step("lora", "B starts at zero")
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_model_starts_unchanged_bit_by_bit_and_only_adapters_are_trained(dropout: float) -> None:
    model = language_model()
    before = model(tokens())
    adapted(model, dropout=dropout)
    assert torch.equal(model(tokens()), before)
    names = {name.split(".")[-2] for name, p in model.named_parameters() if p.requires_grad}
    assert names == {"lora_a", "lora_b"}
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * 3 * (16 + 16) + 2 * 3 * (16 + 8)


@pytest.mark.paper_step("lora", "change merged into the weights")
@pytest.mark.parametrize(("scaling", "factor"), [("rank", 16 / 3), ("root-rank", 16 / 3**0.5)])
def test_the_output_is_that_of_the_formula_and_of_the_merged_layer(scaling: str, factor: float) -> None:
    base = nn.Linear(7, 5).double()
    config = LoraConfig.model_validate({"targets": ["*"], "rank": 3, "scaling": scaling, "dropout": 0.3})
    layer = trained(LoraLinear(base, config, torch.Generator().manual_seed(0)).double()).eval().double()
    x = torch.randn(4, 2, 7, dtype=torch.float64)
    expected = x @ base.weight.T + base.bias + factor * x @ (layer.lora_b.weight @ layer.lora_a.weight).T
    assert torch.allclose(layer(x), expected, atol=1e-10)
    assert torch.allclose(layer.merge_adapter()(x), expected, atol=1e-10)
    assert torch.equal(layer.base.weight, base.weight)


def test_a_merged_model_is_ordinary_and_does_the_same() -> None:
    model = trained(adapted(language_model())).eval()
    plain = merge_adapters(model)
    assert plain.state_dict().keys() == language_model().state_dict().keys()
    assert torch.allclose(plain(tokens()), model(tokens()), atol=1e-5)
    assert any(isinstance(module, LoraLinear) for module in model.modules())


@pytest.mark.paper_step("lora", "low-rank change of a frozen layer")
def test_outputs_and_gradients_are_those_of_peft() -> None:
    peft = pytest.importorskip("peft")
    plain = language_model()
    theirs = peft.inject_adapter_in_model(
        peft.LoraConfig(r=3, lora_alpha=16, target_modules=["q_proj", "v_proj"], lora_dropout=0.0), language_model()
    )
    theirs.load_state_dict(
        {k: plain.state_dict()[k.replace("base_layer.", "")] for k in theirs.state_dict() if "lora_" not in k},
        strict=False,
    )
    ours = trained(adapted(plain))
    pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
    for name, layer in ours.named_modules():
        if isinstance(layer, LoraLinear):
            other: Any = theirs.get_submodule(name)
            pairs.append((layer.lora_a.weight, other.lora_A["default"].weight))
            pairs.append((layer.lora_b.weight, other.lora_B["default"].weight))
    for mine, other in pairs:
        other.data = mine.data.clone()
    assert len(pairs) == 8
    assert torch.allclose(ours(tokens()), theirs(tokens()), atol=1e-5)
    found, expected = (
        torch.autograd.grad(model(tokens()).logsumexp(-1).sum(), parameters)
        for model, parameters in zip((ours, theirs), map(list, zip(*pairs, strict=True)), strict=True)
    )
    assert all(torch.allclose(a, b, atol=1e-5, rtol=1e-4) for a, b in zip(found, expected, strict=True))


def test_its_dropout_is_found_and_the_first_gradient_of_a_is_zero() -> None:
    model = adapted(language_model(), dropout=0.25)
    sites = dropout_sites(model, SPEC.shape, 2, SPEC.dtype)
    assert [site.rate for site in sites] == [0.25] * 4
    assert sites[0].shape == (2, 6, 16)
    loss = model(tokens()).square().sum()
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    found = dict(zip(names, torch.autograd.grad(loss, [model.get_parameter(n) for n in names]), strict=True))
    assert all(bool(g.any()) is name.endswith("lora_b.weight") for name, g in found.items())


def test_an_output_layer_may_be_trained_in_full() -> None:
    tags = InputSpec((6,), 3, (), (), vocabulary=11)
    method = registry.get("model", "tiny-llama")
    model = adapted(
        method.make(method.config.model_validate({"width": 16, "hidden": 16}), tags), also_train=["lm_head.*"]
    )
    others = {name for name, p in model.named_parameters() if p.requires_grad and ".lora_" not in name}
    assert others == {"lm_head.score.weight", "lm_head.score.bias"}
    with pytest.raises(NotApplicable, match=r"also_train: no parameter matches 'lm_heat\.\*'\."):
        adapted(language_model(), also_train=["lm_heat.*"])


def test_only_adapters_travel(scenario: Callable[..., Scenario]) -> None:
    world = worlds.build(scenario(components=[{"name": "lora", "targets": ["4"], "rank": 2}]))
    world.check()
    update, _ = local_training(world, world.models.first_weights, 1, 0)
    assert sorted(update.tensors) == ["4.lora_a.weight", "4.lora_b.weight"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": ["*.q_prj"]}, r"no linear layer matches '\*\.q_prj'\. Did you mean '\*\.q_proj'"),
        ({"targets": ["embed_tokens"]}, "no linear layer matches 'embed_tokens'"),
        ({"rank": 9}, r"rank is 9, expected at most 8, the width of 'layers\.0\.self_attn\.v_proj'"),
    ],
)
def test_what_does_not_fit_is_one_clear_sentence(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(NotApplicable, match=message):
        adapted(language_model(), **settings)
