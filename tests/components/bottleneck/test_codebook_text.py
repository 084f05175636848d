"""Codebooks in a language model, one a head in front of the attention's output projection: read, forced, disabled."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.components.bottleneck.codebook import (
    Codebook,
    CodebookConfig,
    bypass_codebooks,
    codebooks,
    disable_codes,
    force_codes,
    reading,
)
from fedsim.core import registry, seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.types import InputSpec
from fedsim.data._tokenizer import WordTokenizer
from tests.components.generating import greedy

TOKENIZER = WordTokenizer()
LENGTH, HEADS = 7, 4
PLACES = ["layers.0.self_attn.o_proj", "layers.1.self_attn.o_proj"]
SPEC = InputSpec((LENGTH,), TOKENIZER.vocabulary, (), (), TOKENIZER.vocabulary, TOKENIZER.padding)


def plain() -> nn.Module:
    method = registry.get("model", "tiny-llama")
    with seeding.isolate_randomness(3):
        model = method.make(method.config.model_validate({"width": 16, "heads": HEADS, "hidden": 20}), SPEC).eval()
        for parameter in model.parameters():  # louder than at the start, so that codes matter
            parameter.data.mul_(8.0 if parameter.dim() > 1 else 1.0)
    return model


def quantised(model: nn.Module | None = None, **settings: Any) -> nn.Module:
    given = {"at": ["*.self_attn.o_proj"], "side": "input", "groups": HEADS, "codes": 24, "active": 2, **settings}
    component = Codebook(CodebookConfig.model_validate(given))
    return component.prepare(model or plain(), torch.Generator().manual_seed(0))


def tokens(count: int = 3) -> Tensor:
    return torch.randint(256, (count, LENGTH), generator=torch.Generator().manual_seed(1))


def chosen(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    with reading(model) as seen, torch.no_grad():
        model(inputs)
    return {place: found[0] for place, found in seen.items()}


def test_every_head_has_a_codebook_in_front_of_the_output_projection() -> None:
    model = quantised()
    assert list(codebooks(model)) == PLACES
    assert all(layer.codes.shape == (HEADS, 24, 4) for layer in codebooks(model).values())
    heads: list[Tensor] = []
    projection = model.get_submodule(f"{PLACES[0]}.layer")
    projection.register_forward_pre_hook(lambda _module, inputs: heads.append(inputs[0]))
    codes = chosen(model, tokens())[PLACES[0]]
    assert codes.shape == (3, LENGTH, HEADS, 2)
    table = codebooks(model)[PLACES[0]].codes.detach()
    expected = torch.stack([table[group][codes[:, :, group]].mean(-2) for group in range(HEADS)], -2).flatten(-2)
    torch.testing.assert_close(heads[0], expected)


def test_what_is_quantised_are_the_heads_themselves() -> None:
    """The codes that fire are those most similar to the normed heads of the plain model's first block."""
    model, untouched, heads = quantised(), plain(), list[Tensor]()
    untouched.get_submodule(PLACES[0]).register_forward_pre_hook(lambda _module, inputs: heads.append(inputs[0]))
    untouched(tokens())
    normed = F.layer_norm(heads[0].unflatten(-1, (HEADS, 4)), (4,))
    table = F.normalize(codebooks(model)[PLACES[0]].codes.detach(), dim=-1)
    best = torch.einsum("btgw,gcw->btgc", normed, table).topk(2).indices.sort(-1).values
    assert torch.equal(chosen(model, tokens())[PLACES[0]], best)


def test_switched_off_the_model_is_the_plain_one_bit_by_bit() -> None:
    model, untouched = quantised(), plain()
    with bypass_codebooks(model):
        assert torch.equal(model(tokens()), untouched(tokens()))
    assert not torch.equal(model(tokens()), untouched(tokens()))


@torch.no_grad()
def test_forcing_the_codes_that_fire_anyway_changes_nothing() -> None:
    model, inputs = quantised(), tokens(1)
    before, codes = model(inputs), chosen(model, inputs)
    for place, code in codes.items():
        for position in range(LENGTH):
            for group in range(HEADS):
                own, where = code[0, position, group].tolist(), slice(position, position + 1)
                with force_codes(model, place, own, group=group, positions=where):
                    assert torch.equal(model(inputs), before)


@torch.no_grad()
def test_forced_codes_fire_at_every_new_position_of_what_is_written() -> None:
    model, prompts = quantised(), tokens(2)[:, :3].tolist()
    plain_text = greedy(model, prompts, 4)
    with force_codes(model, PLACES[1], [5, 6], positions=slice(3, None)):
        written = greedy(model, prompts, 4)
        codes = chosen(model, torch.tensor([[*prompt, *own] for prompt, own in zip(prompts, written, strict=True)]))
    assert (codes[PLACES[1]][:, 3:] == torch.tensor([5, 6])).all()
    assert written != plain_text
    assert [own[0] for own in written] == [own[0] for own in plain_text]
    with force_codes(model, PLACES[1], [5, 6], positions=slice(0, 0)):
        assert greedy(model, prompts, 4) == plain_text


@torch.no_grad()
def test_a_disabled_code_fires_nowhere() -> None:
    model, inputs = quantised(), tokens()
    code = int(chosen(model, inputs)[PLACES[0]][0, 0, 0, 0])
    with disable_codes(model, PLACES[0], [code]):
        found = chosen(model, inputs)[PLACES[0]]
    assert (found != code).all()
    assert (found.diff(dim=-1) > 0).all()


def test_rows_of_codes_that_did_not_fire_have_no_gradient() -> None:
    model, inputs = quantised(loss="base"), tokens(1)
    F.cross_entropy(model(inputs)[0], inputs[0].roll(-1)).backward()
    for place, codes in chosen(model, inputs).items():
        gradient = codebooks(model)[place].codes.grad
        assert gradient is not None
        fired = torch.zeros(HEADS, 24, dtype=torch.bool)
        for group in range(HEADS):
            fired[group, codes[:, :, group].flatten()] = True
        assert torch.equal((gradient != 0).any(-1), fired)


def test_a_pattern_without_a_module_and_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(NotApplicable, match=r"no layer is called '\*\.o_pro'"):
        quantised(at=["*.o_pro"])
    with pytest.raises(
        NotApplicable, match=r"'layers.0.self_attn.o_proj' reads 16 entries, not a multiple of the 3 groups"
    ):
        quantised(groups=3)
    with pytest.raises(NotApplicable, match="is a part of"):
        quantised(at=["layers.0.*"])
    with pytest.raises(NotApplicable, match="has a codebook already"):
        quantised(quantised())


def test_it_stands_in_a_real_llama_by_the_same_name(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": HEADS}
    config = transformers.LlamaConfig(
        vocab_size=SPEC.vocabulary, num_key_value_heads=2, max_position_embeddings=32, **sizes
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    method = registry.get("model", "hugging-face")
    model = quantised(method.make(method.config.model_validate({"path": tmp_path}), SPEC).eval())
    assert list(codebooks(model)) == [f"own.model.{place}" for place in PLACES]
    codes = chosen(model, tokens())
    assert all(code.shape == (3, LENGTH, HEADS, 2) for code in codes.values())
