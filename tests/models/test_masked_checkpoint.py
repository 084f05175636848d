"""LLaDA and Dream from folders with random weights: the scores of our own blocks, and refusals in a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import GenerationInputs
from fedsim.core.types import InputSpec, Limits
from fedsim.generation import generate
from tests.components.generating import make, names, prompts, sources

safetensors = pytest.importorskip("safetensors.torch")
pytest.importorskip("transformers")
LENGTH, WORDS = 6, 11  # the mask token is the one behind them
LLADA = {
    "model_type": "llada",
    "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
    "block_type": "llama",
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "weight_tying": False,
    "d_model": 16,
    "mlp_hidden_size": 20,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 4,
    "max_sequence_length": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "embedding_size": WORDS + 1,
    "mask_token_id": WORDS,
}
DREAM = {
    "model_type": "Dream",
    "auto_map": {"AutoModel": "modeling_dream.DreamModel"},
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "vocab_size": WORDS + 1,
    "mask_token_id": WORDS,
}
PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "post_attention_layernorm": "ff_norm",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}


def spec(length: int = LENGTH, words: int = WORDS) -> InputSpec:
    return InputSpec((length,), words, (), (), vocabulary=words)


def ours() -> nn.Module:
    """The same network of our own blocks, without absolute positions."""
    family = registry.get("model", "tiny-llada")
    sizes = {"width": 16, "blocks": 2, "heads": 4, "hidden": 20, "base": 500.0, "epsilon": 1e-5}
    with seeding.isolate_randomness(1):
        model = family.make(family.config.model_validate(sizes), spec()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # so that attention is far from even
        model.get_submodule("embed_positions").weight.zero_()
    return model


def saved(folder: Path, settings: dict[str, Any], weights: dict[str, Tensor]) -> Path:
    (folder / "config.json").write_text(json.dumps(settings))
    safetensors.save_file({name: weight.clone() for name, weight in weights.items()}, folder / "model.safetensors")
    return folder


def weights_of(model: nn.Module, kind: str) -> dict[str, Tensor]:
    """The weights under the names of a published checkpoint; the output layer also scores the mask token."""
    state = model.state_dict()
    head = torch.cat((state["lm_head.weight"], torch.zeros(1, 16)))
    is_llada = kind == "llada"
    whole = ("transformer.wte", "transformer.ln_f", "model.transformer.ff_out") if is_llada else (
        "embed_tokens", "norm", "lm_head")  # fmt: skip
    found = {
        f"model.{whole[0]}.weight": state["embed_tokens.weight"],
        f"model.{whole[1]}.weight": state["norm.weight"],
        f"{whole[2]}.weight": head,
    }
    for layer in range(2):
        for part, theirs in PARTS.items():
            name = f"model.transformer.blocks.{layer}.{theirs}" if is_llada else f"model.layers.{layer}.{part}"
            found[f"{name}.weight"] = state[f"layers.{layer}.{part}.weight"]
        for part in ("q_proj", "k_proj", "v_proj") if not is_llada else ():
            found[f"model.layers.{layer}.self_attn.{part}.bias"] = torch.zeros(16)
    return found


def loaded(path: Path, about: InputSpec | None = None) -> nn.Module:
    family = registry.get("model", "masked-checkpoint")
    return family.make(family.config.model_validate({"path": path}), about or spec()).eval()


def texts() -> Tensor:
    return torch.randint(WORDS, (3, LENGTH), generator=torch.Generator().manual_seed(0))


def test_llada_has_the_scores_of_our_own_blocks_with_and_without_masks(tmp_path: Path) -> None:
    own = ours()
    theirs = loaded(saved(tmp_path, LLADA, weights_of(own, "llada")))
    masked = torch.rand(3, LENGTH, generator=torch.Generator().manual_seed(1)) < 0.5
    for given in ({}, {"masked": masked}):
        torch.testing.assert_close(theirs(texts(), **given)[..., :WORDS], own(texts(), **given), rtol=1e-4, atol=1e-5)
    assert theirs.mask_token == WORDS
    assert theirs.context == 8


def test_dream_scores_a_place_at_the_place_before(tmp_path: Path) -> None:
    own = ours()
    theirs = loaded(saved(tmp_path, DREAM, weights_of(own, "Dream")))
    plain, shifted = own(texts()), theirs(texts())[..., :WORDS]
    torch.testing.assert_close(shifted[:, 1:], plain[:, :-1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shifted[:, 0], plain[:, 0], rtol=1e-4, atol=1e-5)


def test_a_checkpoint_fills_in_texts_and_trains(tmp_path: Path) -> None:
    model = loaded(saved(tmp_path, LLADA, weights_of(ours(), "llada")))
    unmasker = registry.get("component", "fixed")
    (text,) = generate(
        unmasker.make(unmasker.config()),
        model,
        GenerationInputs(((1, 2),)),
        Limits(max_new_tokens=4),
        seeding.generators(0, "test", [(0,)]),
    )
    assert len(text.tokens) == 4
    assert all(token < WORDS for token in text.tokens)
    model(texts(), masked=torch.ones(3, LENGTH).bool())[..., 0].sum().backward()
    assert all(p.grad is not None for p in model.parameters())


KINDS = pytest.mark.parametrize(("kind", "settings"), [("llada", LLADA), ("Dream", DREAM)])


class Everything:
    """A store from which every place sees all that are read."""

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return keys, values


@torch.no_grad()
@KINDS
def test_reading_every_place_gives_the_scores_of_a_pass(tmp_path: Path, kind: str, settings: dict[str, Any]) -> None:
    model: Any = loaded(saved(tmp_path, settings, weights_of(ours(), kind)))
    places = torch.arange(LENGTH).expand(3, -1)
    # Fused attention adds up in another order.
    torch.testing.assert_close(model.read(texts(), places, Everything()), model(texts()), rtol=1e-4, atol=1e-5)
    shifted = model.read(texts(), places + 1, Everything())
    torch.testing.assert_close(shifted, model(texts()), rtol=1e-4, atol=1e-5)  # distances alone rotate
    apart = model.read(texts(), 2 * places, Everything())
    assert not torch.allclose(apart, model(texts()), rtol=1e-4, atol=1e-5), "the control"


@KINDS
@pytest.mark.parametrize("name", names("unmasker", "text"))
def test_every_unmasker_fills_in_a_text_with_a_checkpoint(
    tmp_path: Path, name: str, kind: str, settings: dict[str, Any]
) -> None:
    model = loaded(saved(tmp_path, settings, weights_of(ours(), kind)))
    (text,) = generate(make(name), model, prompts([1, 2]), Limits(max_new_tokens=6), sources(1))
    assert (text.ending, len(text.tokens)) == ("length", 6)
    assert all(token < WORDS for token in text.tokens)


@KINDS
def test_window_diffusion_fills_in_with_a_checkpoint_as_full_passes_do(
    tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    one_layer = {**settings, "n_layers": 1, "num_hidden_layers": 1}
    weights = {name: weight for name, weight in weights_of(ours(), kind).items() if ".1." not in name}
    model = loaded(saved(tmp_path, one_layer, weights))
    asked, limits = prompts([1, 2], [5, 3]), Limits(max_new_tokens=6)
    everything = {"window": 6, "active": 6, "refresh": 99, "keeps_refreshed": True}
    plain = generate(make("fixed"), model, asked, limits, sources(2))
    # With one layer the keys and values of a place depend on its own token alone, so a cache forgets nothing.
    cached = generate(make("window-diffusion", **everything), model, asked, limits, sources(2))
    assert [(one.tokens, one.trace.places) for one in cached] == [(one.tokens, one.trace.places) for one in plain]


def test_what_cannot_be_loaded_is_one_sentence(tmp_path: Path) -> None:
    def refused(message: str, about: InputSpec | None = None) -> None:
        with pytest.raises(FedsimError, match=message):
            loaded(tmp_path, about)

    refused(r"no .*config\.json")
    (tmp_path / "config.json").write_text("no json")
    refused("is not JSON")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    refused("is of kind 'llama', expected 'llada' or 'Dream'. Causal language models are read by model 'hugging-face'")
    (tmp_path / "config.json").write_text(json.dumps({**LLADA, "alibi": True}))
    refused("says alibi = True, and fedsim computes LLaDA with False alone")
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in LLADA.items() if k != "mask_token_id"}))
    refused("names no mask_token_id")
    (tmp_path / "config.json").write_text(json.dumps(LLADA))
    refused(r"holds no \.safetensors file")
    weights = weights_of(ours(), "llada")
    saved(tmp_path, {k: v for k, v in LLADA.items() if k != "n_layers"}, weights)
    refused("does not say n_layers")
    saved(tmp_path, {**LLADA, "mlp_hidden_size": 24}, weights)
    refused("they belong to different models")
    saved(tmp_path, LLADA, {k: v for k, v in weights.items() if "blocks.1.up_proj" not in k})
    refused("lacks the weight 'model.layers.1.mlp.up_proj.weight'")
    saved(tmp_path, LLADA, {**weights, "strange": torch.zeros(1)})
    refused("holds a weight 'strange' that llada has not")
    saved(tmp_path, LLADA, weights)
    refused(r"data\.length is 9, expected at most 8", spec(length=9))
    refused("the tokenizer has 13 tokens, the model in .* only 12", spec(words=13))
    refused("scores tokens, and the labels are none", InputSpec((LENGTH,), 3, (), (), vocabulary=WORDS))
    (tmp_path / "model.safetensors").write_bytes(b"none")
    refused("cannot be read")
