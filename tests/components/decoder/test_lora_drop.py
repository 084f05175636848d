"""LoRA-Drop's decoder: what its sheet says must hold."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.components.core.drop_adapter import adapters_of
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import GenerationContext
from fedsim.core.nets.masks import disable_dropout
from fedsim.core.types import Generated, Limits
from fedsim.generation import generate
from tests.components.generating import greedy, make, prompts, sources, tiny_llama

DEPTH, DROPPED, CYCLE = 6, (1, 3, 4), 3
ROUNDING = 1e-9  # double precision: sums in another order, through six layers


def adapted(prompt: int = 1, trained: bool = True, reuse: str = "anchor") -> nn.Module:
    component = make("lora-drop-adapters", blocks=DROPPED, cycle=CYCLE, rank=3, prompt=prompt, reuse=reuse)
    model = component.prepare(tiny_llama(blocks=DEPTH), torch.Generator().manual_seed(0)).eval()
    if trained:
        for own in adapters_of(model).values():
            nn.init.normal_(own.lora_b.weight, std=0.5, generator=torch.Generator().manual_seed(own.number))
    return model


def write(model: nn.Module, asked: list[list[int]], count: int = 10, **settings: Any) -> list[Generated]:
    limits = Limits(max_new_tokens=count)
    return generate(make("lora-drop", **settings), model, prompts(*asked), limits, sources(len(asked)))


def steps(model: nn.Module, asked: list[list[int]], count: int, **settings: Any) -> list[Any]:
    """The states of so many steps."""
    method = make("lora-drop", **settings)
    context = GenerationContext(tuple(sources(len(asked))), Limits(max_new_tokens=100))
    with torch.no_grad():
        states = [method.start(model, prompts(*asked), context)]
        for _ in range(count):
            states.append(method.step(model, states[-1], context)[0])
    return states


@pytest.mark.parametrize("settings", [{"cycle": 1}, {"blocks": ()}])
def test_with_nothing_dropped_it_is_greedy(settings: dict[str, Any]) -> None:
    model, asked = tiny_llama(blocks=DEPTH).eval(), [[1, 2, 3], [4], [5, 6, 1, 1]]
    assert [list(own.tokens) for own in write(model, asked, **settings)] == greedy(model, asked, 10)
    assert [list(own.tokens) for own in write(model, asked)] != greedy(model, asked, 10), "the control"


@pytest.mark.paper_step("lora-drop", "the clock of anchors")
@torch.no_grad()
@pytest.mark.parametrize("reuse", ["anchor", "previous"])
@pytest.mark.parametrize("length", [1, 4])
def test_scores_step_by_step_are_those_of_a_pass_over_the_whole_text(length: int, reuse: str) -> None:
    model, text = adapted(length, reuse=reuse), [1, 2, 3, 4, 5, 6, 1, 1, 2, 3, 5, 4, 4, 6]
    with disable_dropout():
        expected = model(torch.tensor([text]))[0]
    method, context = make("lora-drop"), GenerationContext(tuple(sources(1)), Limits(max_new_tokens=100))
    state = method.start(model, prompts(text[:length]), context)
    for place in range(length, len(text) + 1):
        scores, anchors = state.clock.read(state)
        torch.testing.assert_close(scores[0], expected[place - 1], rtol=0, atol=ROUNDING)
        anew, again = state.clock.read(
            method.start(model, prompts(text[:length]), context).append_tokens([text[length:place]])
        )
        torch.testing.assert_close(anew, scores, rtol=0, atol=ROUNDING)
        torch.testing.assert_close(again, anchors, rtol=0, atol=ROUNDING)
        after, _events = method.step(model, state, context)
        state = replace(after, tokens=(tuple(text[: place + 1]),))


@pytest.mark.paper_step("lora-drop", "adapters replace dropped blocks between anchors")
@torch.no_grad()
def test_a_fresh_adapter_returns_what_its_block_returned_at_the_anchor() -> None:
    model = adapted(trained=False)
    seen: dict[int, list[Tensor]] = {number: [] for number in range(DEPTH)}
    for number in (2, 5):  # each reads what a dropped block returns

        def note(_block: nn.Module, inputs: tuple[Tensor, ...], _out: object, number: int = number) -> None:
            seen[number].append(inputs[0][0, -1])

        model.get_submodule(f"layers.{number}").register_forward_hook(note)
    states = steps(model, [[1, 2, 3]], 7)
    anchors = [state.anchors for state in states[1:]]
    for step in range(7):
        last = step - step % CYCLE
        assert all(torch.equal(anchors[step][own][0], anchors[last][own][0]) for own in DROPPED)
        assert torch.equal(seen[2][step], anchors[last][1][0])
        assert torch.equal(seen[5][step], anchors[last][4][0])
    assert not torch.equal(anchors[0][1], anchors[CYCLE][1])


@pytest.mark.paper_step("lora-drop", "keys of the prompt and of anchors alone")
def test_dropped_blocks_hold_the_keys_of_prompt_and_anchors_and_layers_are_counted() -> None:
    model, calls = adapted(), [0] * DEPTH
    for number in range(DEPTH):

        def count(_block: nn.Module, inputs: tuple[Tensor, ...], _out: object, number: int = number) -> None:
            calls[number] += inputs[0].shape[1]

        model.get_submodule(f"layers.{number}").register_forward_hook(count)
    read = 2 * CYCLE
    states = steps(model, [[1, 2, 3]], 1 + read)
    held = [3 + (read // CYCLE if number in DROPPED else read) for number in range(DEPTH)]
    assert calls == held
    assert states[-1].past.key_counts == [[own] for own in held]
    assert sum(calls) - 3 * DEPTH == read * (DEPTH - len(DROPPED) * (CYCLE - 1) / CYCLE)
    (found,) = write(adapted(), [[1, 2, 3]], 1 + read)
    assert sum(found.trace.series()["layers"][1:]) == sum(calls) - 3 * DEPTH


def test_a_text_beside_others_is_written_as_alone() -> None:
    model, asked = adapted(), [[1, 2, 3], [4], [1, 2, 3], [5, 6, 1, 1, 2, 3, 3]]
    together = write(model, asked)
    assert together[0].tokens == together[2].tokens
    assert [own.tokens for own in together] == [write(model, [own])[0].tokens for own in asked]
    assert len({own.trace.series()["layers"] for own in together}) == 1, "work tells no text from another"


@pytest.mark.parametrize("reuse", ["anchor", "previous"])
def test_adapters_from_a_file_do_what_those_in_the_model_do(tmp_path: Path, reuse: str) -> None:
    model, asked = adapted(reuse=reuse), [[1, 2, 3], [4]]
    file = tmp_path / "adapters.pt"
    torch.save({name: p.detach() for name, p in model.named_parameters() if p.requires_grad}, file)
    plain = tiny_llama(blocks=DEPTH).eval()
    texts = write(plain, asked, adapters=file, cycle=CYCLE, reuse=reuse)
    assert [text.tokens for text in texts] == [own.tokens for own in write(model, asked)]
    assert [text.tokens for text in texts] != [own.tokens for own in write(plain, asked, blocks=DROPPED, cycle=CYCLE)]
    with pytest.raises(FedsimError, match="the model has adapters of its own"):
        write(model, asked, adapters=file)
    with pytest.raises(FedsimError, match=r"missing.pt cannot be read"):
        write(plain, asked, adapters=tmp_path / "missing.pt")
    file.write_bytes(b"no file of torch")
    with pytest.raises(
        FedsimError, match=r"^adapters = .*adapters\.pt is no file of weights, or holds more than tensors"
    ):
        write(plain, asked, adapters=file)
    torch.save({"layers.1.lora_drop.lora_a.weight": 3.0}, file)
    with pytest.raises(FedsimError, match="holds no adapters of width 16"):
        write(plain, asked, adapters=file)
    torch.save({"layers.1.lora_drop.lora_a.weight": torch.zeros(2, 5)}, file)
    with pytest.raises(FedsimError, match=r"holds no adapters of width 16: expected tensors such as 'layers\.1"):
        write(plain, asked, adapters=file)


def test_settings_that_do_not_fit_are_refused() -> None:
    plain = tiny_llama(blocks=DEPTH).eval()
    for blocks in ((0, 2), (DEPTH,)):
        with pytest.raises(FedsimError, match="expected numbers of blocks from 1 to 5: the model has 6"):
            write(plain, [[1]], blocks=blocks)
    others: list[dict[str, Any]] = [{"cycle": 5}, {"blocks": (1,)}, {"reuse": "previous"}]
    for settings in others:
        with pytest.raises(FedsimError, match=r"adapters are for blocks = \[1, 3, 4\], cycle = 3 and reuse = 'anchor'"):
            write(adapted(), [[1]], **settings)
    with pytest.raises(FedsimError, match="decoder 'lora-drop' runs single layers"):
        write(nn.Sequential(plain), [[1]])
