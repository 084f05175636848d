"""A low-rank adapter against W + s B A, merged and taken out again, and the layers that patterns choose."""

import pytest
import torch
from torch import nn

from fedsim.components.core.low_rank import LowRankConfig, LowRankLinear, adapt, merge_adapters
from fedsim.core.errors import NotApplicable


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def learned() -> tuple[LowRankLinear, nn.Linear]:
    """An adapter that has been trained, and a layer of W + s B A."""
    base = nn.Linear(6, 5).double()
    adapter = LowRankLinear(base, 2, generator())
    adapter.scale = 0.7
    twin = nn.Linear(6, 5).double()
    with torch.no_grad():
        adapter.lora_b.weight.copy_(torch.randn(5, 2, generator=generator(), dtype=torch.float64))
        twin.weight.copy_(base.weight + 0.7 * adapter.lora_b.weight @ adapter.lora_a.weight)
        twin.bias.copy_(base.bias)
    return adapter, twin


def test_outputs_are_those_of_the_changed_weight_and_of_the_merged_layer() -> None:
    adapter, twin = learned()
    inputs = torch.randn(3, 4, 6, generator=generator(), dtype=torch.float64)
    assert torch.allclose(adapter(inputs), twin(inputs))
    assert torch.allclose(adapter.merge_adapter().weight, twin.weight)
    assert torch.allclose(adapter.change(), twin.weight - adapter.base.weight)


def test_it_starts_as_the_layer_with_a_uniform_factor_and_a_zero_one() -> None:
    base = nn.Linear(100, 30)
    adapter = LowRankLinear(base, 20, generator())
    assert adapter.scale == 1.0
    inputs = torch.randn(3, 100, generator=generator())
    assert torch.equal(adapter(inputs), base(inputs))
    first = adapter.lora_a.weight.detach()
    assert first.shape == (20, 100)
    assert float(first.abs().max()) <= 0.1
    assert float(first.std()) == pytest.approx(0.1 / 3**0.5, rel=0.05)  # of 2000 uniform draws
    assert {name for name, own in adapter.named_parameters() if own.requires_grad} == {"lora_a.weight", "lora_b.weight"}


def adapted(targets: tuple[str, ...], **settings: object) -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.ModuleDict({"head": nn.Linear(5, 3)}))
    config = LowRankConfig.model_validate({"targets": targets, "rank": 2, **settings})
    return adapt(model, "own", config, lambda layer: LowRankLinear(layer, config.rank, generator()))


def test_patterns_choose_layers_and_all_else_is_frozen() -> None:
    model = adapted(("*.head",), also_train=("0.bias",))
    assert type(model[0]) is nn.Linear  # type: ignore[index]
    trained = {name for name, own in model.named_parameters() if own.requires_grad}
    assert trained == {"0.bias", "2.head.lora_a.weight", "2.head.lora_b.weight"}
    plain = merge_adapters(model)
    assert not [module for module in plain.modules() if isinstance(module, LowRankLinear)]
    assert all(parameter.requires_grad for parameter in plain.parameters())


@pytest.mark.parametrize(
    ("targets", "settings", "message"),
    [
        (("*.haed",), {}, r"no linear layer matches '\*.haed'. Did you mean '\*.head'"),
        (("0",), {"rank": 6}, "rank is 6, expected at most 5, the width of '0'"),
        (("0",), {"also_train": ("*.bais",)}, r"also_train: no parameter matches '\*.bais'. Did you mean '\*.bias'"),
    ],
)
def test_what_does_not_fit_names_the_nearest(
    targets: tuple[str, ...], settings: dict[str, object], message: str
) -> None:
    with pytest.raises(NotApplicable, match=message):
        adapted(targets, **settings)
