"""The benchmarks of adapters measure what they say, on a model that is small enough for a test."""

import pytest
import torch
from torch import nn

from benchmarks import _adapter_rows as steps
from benchmarks import adapter_curves, adapters
from benchmarks._passes import alternating, interval
from benchmarks._small_language_model import Sentences
from fedsim.core import registry
from fedsim.core.types import Batch, InputSpec

SPEC = InputSpec((6,), 40, (), (), vocabulary=40)


def small() -> nn.Module:
    torch.manual_seed(0)
    method = registry.get("model", "tiny-llama")
    return method.make(method.config.model_validate({"width": 32, "hidden": 32}), SPEC)


def test_a_copy_shares_its_weights_and_nothing_else() -> None:
    model = small()
    copied = steps.ours(model, "lora", ("q_proj", "v_proj"))
    assert copied.get_submodule("embed_tokens").weight is model.get_submodule("embed_tokens").weight
    assert isinstance(model.get_submodule("layers.0.self_attn.q_proj"), nn.Linear)
    assert {n.rpartition(".lora_")[1] for n, p in copied.named_parameters() if p.requires_grad} == {".lora_"}


def test_every_way_takes_steps_on_its_own_adapters_alone() -> None:
    pytest.importorskip("peft")
    model = small()
    tokens = torch.randint(40, (2, 5), generator=torch.Generator().manual_seed(0))
    before = {name: p.clone() for name, p in model.named_parameters()}
    for own in (steps.ours(model, "allora", ("q_proj",)), steps.theirs(model, ("q_proj",), 0.1)):
        trained = [p for p in own.parameters() if p.requires_grad]
        first = [p.clone() for p in trained]
        for number in range(2):
            steps.step(own, tokens)(number)
        assert any(not torch.equal(a, b) for a, b in zip(first, trained, strict=True))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_rows_hold_each_way_to_peft() -> None:
    pytest.importorskip("peft")
    found = list(steps.rows(small(), 40, 2, "small", "q, v"))
    assert [row.name.split(" / ")[0] for row in found] == ["LoRA", "LoRA, p = 0.1", "ALLoRA", "peft's LoRA"]
    assert [row.must for row in found] == ["<= 1.0"] * 3 + ["reported"]
    assert all(row.value > 0 and "95 % [" in row.setting for row in found)


def test_ways_take_turns_in_being_first_and_each_has_its_own_times() -> None:
    order: list[str] = []
    found = alternating([lambda _n: order.append("a"), lambda _n: order.append("b")], 2)
    assert "".join(order) == "abbaabba"
    assert [len(seconds) for seconds in found] == [2, 2]


def test_the_interval_of_a_ratio_holds_it_and_shrinks_to_it_without_noise() -> None:
    low, high = interval([2.0] * 5, [1.0] * 5)
    assert low == high == 2.0
    low, high = interval([1.8, 1.9, 2.0, 2.1, 2.2], [1.0] * 5)
    assert 1.8 <= low < 2.0 < high <= 2.2


def test_a_span_tells_its_tokens_and_noise_tells_none() -> None:
    inputs = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    own = torch.tensor([3, 7, 7, 30])
    mixed = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)) @ inputs[own]
    basis = adapters.span(mixed)
    assert len(basis) == 3
    assert adapters.share_told(own, inputs, basis) == 1.0
    assert adapters.share_told(own, inputs, adapters.span(torch.zeros(5, 16))) == 0.0
    assert adapters.share_told(own, inputs, adapters.span(torch.eye(16))) == 0.0


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_masks_that_a_victim_drew_are_those_of_its_gradient(dropout: float) -> None:
    model = adapters.Way("LoRA", rank=8, settings={"dropout": dropout}).on(small())
    model.get_parameter("layers.0.self_attn.v_proj.lora_b.weight").data.normal_(
        generator=torch.Generator().manual_seed(2)
    )
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6]])
    own = adapters.seen(model, tokens, tokens.roll(-1, 1), 0)
    inputs = adapters.read_by(model, adapters.vocabulary_of(model))
    read = inputs[own.tokens] * own.masks["v_proj"] if dropout else inputs[own.tokens]
    basis = adapters.span(own.gradient["v_proj.lora_a.weight"])
    assert float(adapters.outside(read, basis).max()) < 1e-4
    assert bool(own.masks) is bool(dropout)
    if dropout:
        assert adapters.told_by_place(own, inputs, basis) == 1.0


def test_curves_fall_and_the_factors_of_a_step_count() -> None:
    tokens = torch.randint(40, (200, 7), generator=torch.Generator().manual_seed(0))
    batch = Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    setting = adapter_curves.Setting(
        "small", Sentences(small(), batch, batch), adapter_curves.WAYS, {"adam": 0.01}, batch=4, measured=200
    )
    method = registry.get("component", "adam")
    settings = method.config.model_validate({"learning_rate": 0.01})
    curves = {way.label: adapter_curves.curve(way, method.make(settings), setting, 0) for way in setting.ways}
    first = adapter_curves.loss_on(small(), batch, 200)
    assert all(len(losses) == 4 and losses[2] < first for losses in curves.values())
    assert curves["ALLoRA, update"] != curves["LoRA, p = 0, s = 1"]
    assert curves["ALLoRA, gradient"] != curves["LoRA, p = 0, s = 1"]


def test_an_mlp_s_adapters_tell_the_next_token_behind_the_true_beginning() -> None:
    way = adapters.Way("LoRA", rank=12, places=adapters.MLP)
    model = way.on(small())
    for place in ("gate_proj", "up_proj"):
        model.get_parameter(f"layers.0.mlp.{place}.lora_b.weight").data.normal_(
            generator=torch.Generator().manual_seed(2)
        )
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6]])
    own = adapters.seen(model, tokens, tokens.roll(-1, 1), 0)
    assert adapters._told_at(model, own, "MLP") == 1.0
