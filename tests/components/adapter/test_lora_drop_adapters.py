"""LoRA-Drop's adapters: training against blocks written out, what is trained, and what is refused."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.components.core.drop_adapter import adapters_of
from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.nets.losses import cross_entropy
from fedsim.core.nets.masks import disable_dropout
from tests.components.generating import make, tiny_llama

DEPTH, DROPPED, CYCLE = 5, (1, 3), 3
ROUNDING = 1e-9  # double precision: sums in another order, through five blocks
TOKENS = torch.tensor([[1, 2, 3, 4, 5, 6, 1, 1, 2, 3], [3, 3, 1, 6, 2, 2, 5, 4, 1, 2]])


def prepared(**settings: Any) -> nn.Module:
    chosen: dict[str, Any] = {"blocks": DROPPED, "cycle": CYCLE, "rank": 3}
    component = make("lora-drop-adapters", **(chosen | settings))
    model = component.prepare(tiny_llama(blocks=DEPTH), torch.Generator().manual_seed(0))
    for own in adapters_of(model).values():
        nn.init.normal_(own.lora_b.weight, std=0.5, generator=torch.Generator().manual_seed(own.number))
    return model


def written_out(model: nn.Module, text: Tensor, prompt: int, reuse: str) -> Tensor:
    """Scores of a text (T,), block by block and token by token."""
    plain, adapters = tiny_llama(blocks=DEPTH).eval(), adapters_of(model)
    runs = [place < prompt or (place - prompt + 1) % CYCLE == 0 for place in range(len(text))]
    hidden = plain.get_submodule("embed_tokens")(text)
    for number in range(DEPTH):
        block, after = plain.get_submodule(f"layers.{number}"), list[Tensor]()
        for place in range(len(text)):
            if number not in DROPPED or runs[place]:
                kept = [own for own in range(place + 1) if number not in DROPPED or runs[own]]
                positions = torch.tensor([kept])
                mask = torch.full((len(kept), len(kept)), -torch.inf, dtype=hidden.dtype).triu(1)[None, None]
                after.append(block(hidden[kept][None], attention_mask=mask, positions=positions)[0, -1])
            else:
                anchor = max(own for own in range(place) if runs[own]) if reuse == "anchor" else place - 1
                own = adapters[number]
                change = 16.0 / 3 * own.lora_b.weight @ own.lora_a.weight @ hidden[place]
                after.append(after[anchor] + change)
        hidden = torch.stack(after)
    return plain.get_submodule("lm_head")(plain.get_submodule("norm")(hidden))


@pytest.mark.paper_step("lora-drop-adapters", "training through dropped blocks")
@torch.no_grad()
@pytest.mark.parametrize("reuse", ["anchor", "previous"])
@pytest.mark.parametrize("prompt", [1, 4])
def test_a_pass_is_what_blocks_anchors_and_adapters_give_token_by_token(prompt: int, reuse: str) -> None:
    model = prepared(prompt=prompt, reuse=reuse)
    for mode in (True, False):
        with disable_dropout():
            found = model.train(mode)(TOKENS)
        for row, text in enumerate(TOKENS):
            torch.testing.assert_close(found[row], written_out(model, text, prompt, reuse), rtol=0, atol=ROUNDING)


@torch.no_grad()
def test_keys_that_no_block_wrote_are_not_seen() -> None:
    model, open_ = prepared().eval(), prepared().eval()
    for number in DROPPED:
        open_.get_submodule(f"layers.{number}")._forward_pre_hooks.clear()
    assert (model(TOKENS) - open_(TOKENS)).abs().max() > 1e-3


def test_a_cycle_of_one_changes_nothing_and_the_first_tokens_never_lean() -> None:
    plain = tiny_llama(blocks=DEPTH).eval()
    with torch.no_grad():
        assert torch.equal(prepared(cycle=1).eval()(TOKENS), plain(TOKENS))
        torch.testing.assert_close(
            prepared(prompt=6).eval()(TOKENS)[:, :6], plain(TOKENS)[:, :6], rtol=0, atol=ROUNDING
        )


@pytest.mark.paper_step("lora-drop-adapters", "adapters alone are trained")
def test_adapters_alone_are_trained() -> None:
    model = prepared()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {f"layers.{number}.lora_drop.lora_{own}.weight" for number in DROPPED for own in "ab"}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    with disable_dropout():
        cross_entropy(model(TOKENS[:, :-1]), TOKENS[:, 1:]).backward()
    assert all(p.grad is not None and p.grad.any() for name, p in model.named_parameters() if name in trained)
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    assert changed == trained


def test_copies_lean_on_adapters_of_their_own() -> None:
    model = prepared().eval()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        before = model(TOKENS)
        for own in adapters_of(twin).values():
            own.lora_b.weight.zero_()
        assert torch.equal(model(TOKENS), before)
        assert not torch.equal(twin(TOKENS), before)


def test_what_does_not_fit_is_refused() -> None:
    for blocks in ((0,), (DEPTH,)):
        with pytest.raises(NotApplicable, match="expected numbers of blocks from 1 to 4: the model has 5"):
            prepared(blocks=blocks)
    with pytest.raises(NotApplicable, match="rank is 17, expected at most 16"):
        prepared(rank=17)
    with pytest.raises(NotApplicable, match="replaces a whole block, and cannot be merged"):
        adapters_of(prepared())[1].merge_adapter()
    hidden = torch.zeros(1, 4, 16, dtype=torch.double)
    with pytest.raises(FedsimError, match="needs an attention that is given a mask"):
        prepared().get_submodule("layers.1")(hidden, attention_mask=None)
