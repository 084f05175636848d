"""The benchmarks of adapters measure what they say, on a model that is small enough for a test."""

import pytest
import torch
from torch import nn

from benchmarks import language as steps
from benchmarks._passes import time_alternately
from fedsim.core import registry
from fedsim.core.types import InputSpec

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
    found = list(steps.adapter_rows(small(), 40, 2, "small"))
    assert [row.name.split(" / ")[0] for row in found] == ["LoRA", "LoRA, p = 0.1", "ALLoRA", "peft's LoRA"]
    assert [row.must for row in found] == ["<= 1.0"] * 3 + [""]
    assert all(row.value > 0 for row in found)


def test_ways_take_turns_in_being_first_and_each_has_its_own_times() -> None:
    order: list[str] = []
    found = time_alternately([lambda _n: order.append("a"), lambda _n: order.append("b")], 2)
    assert "".join(order) == "abbaabba"
    assert [len(seconds) for seconds in found] == [2, 2]
