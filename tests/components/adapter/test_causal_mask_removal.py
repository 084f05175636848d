"""Open blocks against the stock model, a causality probe, padding, and both kinds of models that have blocks."""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedsim.components.adapter.causal_mask_removal import (
    CausalMaskRemoval,
    CausalMaskRemovalConfig,
    configurations,
    open_blocks,
)
from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.nets.losses import IGNORED, cross_entropy
from fedsim.core.types import InputSpec, WireEntry
from fedsim.federation import cohort
from fedsim.federation.apps import evaluate_model
from fedsim.federation.client import local_training
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.threat.replay import replay

LENGTH, VOCABULARY, BLOCKS, PADDING = 7, 11, 4, 10
SPEC = InputSpec((LENGTH,), 3, (), (), vocabulary=VOCABULARY, padding=PADDING)
ALL = configurations(2) + configurations(4)


def tiny(**settings: Any) -> nn.Module:
    method = registry.get("model", "tiny-llama")
    config = method.config.model_validate({"width": 16, "hidden": 16, "blocks": BLOCKS, **settings})
    with seeding.isolate_randomness(3):
        return method.make(config, SPEC).eval()


def opened(model: nn.Module, chosen: str) -> nn.Module:
    component = CausalMaskRemoval(CausalMaskRemovalConfig(open=chosen))
    return component.prepare(copy.deepcopy(model), torch.Generator())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("llama")
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=BLOCKS, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    with seeding.isolate_randomness(4):
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(params=["tiny-llama", "hugging-face"])
def stock(request: pytest.FixtureRequest, checkpoint: Path) -> nn.Module:
    if request.param == "tiny-llama":
        return tiny()
    method = registry.get("model", "hugging-face")
    with seeding.isolate_randomness(3):
        return method.make(method.config.model_validate({"path": checkpoint}), SPEC).eval()


def tokens(count: int = 3) -> Tensor:
    return torch.randint(VOCABULARY - 1, (count, LENGTH), generator=torch.Generator().manual_seed(0))


def hidden_states(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """What each block reads, and at last what the model returns."""
    (blocks,) = [m for n, m in model.named_modules() if n.rpartition(".")[2] == "layers"]
    seen: list[Tensor] = []
    handles = [b.register_forward_pre_hook(lambda _m, own: seen.append(own[0])) for b in blocks.children()]
    scores = model(inputs)
    for handle in handles:
        handle.remove()
    return [*seen, scores]


def test_nothing_open_is_the_stock_model_with_and_without_padding(stock: nn.Module) -> None:
    inputs = tokens()
    inputs[1, 4:] = PADDING
    assert torch.equal(opened(stock, "00")(inputs), stock(inputs))
    assert (
        opened(stock, "00").state_dict().keys() == opened(stock, "11").state_dict().keys() == stock.state_dict().keys()
    )


@pytest.mark.paper_step("causal-mask-removal", "open blocks see later tokens")
@pytest.mark.parametrize("chosen", ALL)
def test_a_later_token_is_seen_above_the_lowest_open_block_and_nowhere_below(stock: nn.Module, chosen: str) -> None:
    model, changed = opened(stock, chosen), tokens().clone()
    changed[:, -1] = (changed[:, -1] + 1) % (VOCABULARY - 1)
    are_open = open_blocks(chosen, BLOCKS)
    lowest = are_open.index(True) if any(are_open) else BLOCKS
    for depth, (one, other) in enumerate(
        zip(hidden_states(model, tokens()), hidden_states(model, changed), strict=True)
    ):
        difference = (one - other)[:, :-1].abs().amax((1, 2))
        assert bool((difference > 1e-7).all() if depth > lowest else (difference < 1e-6).all())


@pytest.mark.parametrize("chosen", ["01", "10", "11", "0110"])
def test_padding_at_the_end_changes_nothing(stock: nn.Module, chosen: str) -> None:
    model, inputs = opened(stock, chosen), tokens()
    inputs[:, 4:] = PADDING
    assert torch.allclose(model(inputs)[:, :4], model(inputs[:, :4]), atol=1e-5)
    assert bool(model(torch.full((1, LENGTH), PADDING)).isfinite().all())


@pytest.mark.paper_step("causal-mask-removal", "groups of blocks without causal mask")
@given(st.integers(1, 40), st.integers(1, 6))
def test_groups_are_consecutive_and_hold_every_block_once(blocks: int, groups: int) -> None:
    if groups > blocks:
        with pytest.raises(NotApplicable, match=f"open has {groups} digits, expected at most {blocks}"):
            open_blocks("0" * groups, blocks)
        return
    alone = [open_blocks("0" * g + "1" + "0" * (groups - g - 1), blocks) for g in range(groups)]
    members = [[block for block, is_open in enumerate(own) if is_open] for own in alone]
    assert list(itertools.chain(*members)) == list(range(blocks))
    assert [len(member) for member in members[:-1]] == [blocks // groups] * (groups - 1)
    assert len({open_blocks(configuration, blocks) for configuration in configurations(groups)}) == 2**groups


def test_the_first_configuration_opens_nothing_and_the_second_the_top() -> None:
    assert configurations(4)[:3] == ("0000", "0001", "0010")
    assert configurations(4)[15] == "1111"
    assert open_blocks("0001", 8) == (False,) * 6 + (True,) * 2
    assert open_blocks("1000", 9) == (True,) * 2 + (False,) * 7


def gradient(model: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    names = [name for name, _ in model.named_parameters()]
    gradients = torch.autograd.grad(cross_entropy(model(inputs), labels), list(model.parameters()))
    return dict(zip(names, gradients, strict=True))


@pytest.mark.parametrize(("chosen", "is_left"), [("00", False), ("01", True), ("10", True)])
def test_tokens_behind_the_last_label_leave_a_trace_only_in_open_blocks(
    stock: nn.Module, chosen: str, is_left: bool
) -> None:
    model, labels, changed = opened(stock, chosen), torch.full((1, LENGTH), IGNORED), tokens(1).clone()
    labels[0, :4], changed[0, 5] = torch.tensor([0, 2, 1, 1]), (changed[0, 5] + 1) % (VOCABULARY - 1)
    one, other = (gradient(model, inputs, labels) for inputs in (tokens(1), changed))
    assert all(torch.allclose(one[name], other[name], atol=1e-7) for name in one) is not is_left


def test_second_derivatives_and_copies_of_a_used_model_work(stock: nn.Module) -> None:
    model = opened(stock, "11")
    scores = model(tokens())
    assert torch.equal(copy.deepcopy(model)(tokens()), scores)
    weight = next(p for n, p in model.named_parameters() if n.endswith("layers.0.self_attn.q_proj.weight"))
    (first,) = torch.autograd.grad(scores.logsumexp(-1).sum(), [weight], create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), [weight])
    assert bool(second.isfinite().all())
    assert bool(second.any())


def test_text_cannot_be_generated_nor_blocks_be_run_alone(checkpoint: Path) -> None:
    method = registry.get("model", "hugging-face")
    language = InputSpec((LENGTH,), VOCABULARY, (), (), vocabulary=VOCABULARY)
    model: Any = method.make(method.config.model_validate({"path": checkpoint}), language)
    assert opened(model, "00").own.generate(tokens(1), max_new_tokens=1, do_sample=False).shape == (1, LENGTH + 1)
    with pytest.raises(FedsimError, match="cannot generate text"):
        opened(model, "01").own.generate(tokens(1), max_new_tokens=1)
    with pytest.raises(FedsimError, match="Run the whole model, without a cache"):
        opened(model, "01").own(input_ids=tokens(1))
    with pytest.raises(FedsimError, match="Run the whole model, without a cache"):
        opened(tiny(), "1").get_submodule("layers.0")(torch.zeros(1, 2, 16), attention_mask=torch.zeros(1, 1, 2, 2))


def test_a_forward_pass_that_fails_leaves_nothing_behind() -> None:
    model = opened(tiny(), "01")
    handle = model.get_submodule("norm").register_forward_pre_hook(lambda _m, _i: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(tokens())
    handle.remove()
    with pytest.raises(FedsimError, match="Run the whole model"):
        model.get_submodule("layers.3")(torch.zeros(3, LENGTH, 16), attention_mask=torch.zeros(1, 1, LENGTH, LENGTH))


@pytest.mark.parametrize("chosen", ["", "2", "0a"])
def test_other_digits_are_refused(chosen: str) -> None:
    with pytest.raises(ValueError, match="open"):
        CausalMaskRemovalConfig(open=chosen)


def test_models_without_such_blocks_are_refused(checkpoint: Path) -> None:
    with pytest.raises(NotApplicable, match="no list of blocks 'layers' with an attention 'self_attn'"):
        opened(nn.Sequential(nn.Linear(2, 2)), "1")
    with pytest.raises(NotApplicable, match="open has 5 digits, expected at most 4"):
        opened(tiny(), "00000")
    transformers = pytest.importorskip("transformers")
    fused = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="sdpa")
    with pytest.raises(NotApplicable, match="computed as 'sdpa', which may ignore the mask"):
        opened(fused, "1")


@pytest.mark.parametrize("engine", ["local", "vectorized"])
def test_a_federation_trains_and_evaluates_with_the_same_blocks_open(
    engine: str, scenario: Callable[..., Scenario]
) -> None:
    tables = {
        "data": {"name": "digit-tags", "sentences": 60},
        "model": {"name": "tiny-llama", "width": 16, "hidden": 16},
        "federation": {"clients": 3, "batch_size": 2, "engine": engine},
        "components": [{"name": "causal-mask-removal", "open": "01"}],
    }
    world = worlds.build(scenario(**tables))
    world.check()
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    assert truth.batches[0].labels.shape == (2, 12)
    assert replay(world, WireEntry(1, 0, world.models.first_weights, update)).matches
    if engine == "vectorized":
        cohort.check(world)
    seen: list[Tensor] = []
    world.models.load_weights(world.models.first_weights).register_forward_hook(lambda _m, own, out: seen.append(out))
    evaluate_model(world, world.models.first_weights)
    closed = (
        worlds.build(scenario(**{**tables, "components": []})).models.load_weights(world.models.first_weights).eval()
    )
    assert not torch.allclose(seen[0], closed(world.data.dataset.test.inputs[: len(seen[0])]), atol=1e-6)
