"""Language models against the transformers package, on small networks with copied weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.core import masks, registry, seeding
from fedsim.core.errors import FedsimError
from fedsim.core.losses import cross_entropy
from fedsim.core.types import InputSpec

transformers = pytest.importorskip("transformers")

SIZES = {"width": 16, "blocks": 2, "heads": 4, "key_value_heads": 2, "hidden": 20}
LENGTH, VOCABULARY = 6, 11


def spec(length: int = LENGTH, vocabulary: int = VOCABULARY) -> InputSpec:
    return InputSpec((length,), vocabulary, (), (), vocabulary=vocabulary)


def build(name: str = "tiny-llama", about: InputSpec | None = None, **settings: Any) -> nn.Module:
    method = registry.get("model", name)
    with seeding.isolate_randomness(3):
        return method.make(method.config.model_validate(settings), about or spec())


def reference(tied: bool = False) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        attn_implementation="eager",
    )
    with seeding.isolate_randomness(4):
        return transformers.LlamaForCausalLM(config)


def tokens(count: int = 3, length: int = LENGTH) -> Tensor:
    return torch.randint(VOCABULARY, (count, length), generator=torch.Generator().manual_seed(0))


def gradient(model: nn.Module) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    loss = cross_entropy(model(tokens()), tokens().roll(-1, 1))
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


@pytest.mark.parametrize("tied", [False, True])
def test_tiny_llama_is_llama(tied: bool) -> None:
    theirs, ours = reference(tied), build(**SIZES, tied=tied)
    ours.load_state_dict(
        {k.removeprefix("model."): v for k, v in theirs.state_dict().items() if not tied or k != "lm_head.weight"}
    )
    assert torch.allclose(ours(tokens()), theirs(tokens()).logits, atol=1e-5)
    theirs.loss = cross_entropy(theirs(tokens()).logits, tokens().roll(-1, 1))
    expected = torch.autograd.grad(theirs.loss, list(theirs.parameters()))
    names = [name.removeprefix("model.") for name, _ in theirs.named_parameters()]
    found = gradient(ours)
    assert sorted(names) == sorted(found)
    assert all(torch.allclose(found[n], e, atol=1e-5) for n, e in zip(names, expected, strict=True))


def test_what_comes_later_changes_nothing() -> None:
    model, changed = build(**SIZES).eval(), tokens().clone()
    changed[:, 4:] = 0
    assert torch.allclose(model(tokens())[:, :4], model(changed)[:, :4], atol=1e-6)


def test_recorded_masks_can_be_injected_and_the_gradient_can_be_differentiated() -> None:
    model = build(**SIZES, dropout=0.5).train()
    with masks.record_masks(model, torch.Generator().manual_seed(1)) as recording:
        drawn = gradient(model)
    with masks.inject_masks(recording.sites, tuple(recording.masks)):
        injected = gradient(model)
    assert len(recording.masks) == 1 + 2 * 3
    assert all(torch.equal(drawn[name], injected[name]) for name in drawn)
    head, loss = model.get_submodule("lm_head"), cross_entropy(model(tokens()), tokens())
    (first,) = torch.autograd.grad(loss, list(head.parameters()), create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), [model.get_parameter("layers.0.self_attn.q_proj.weight")])
    assert float(second.abs().max()) > 0


@pytest.mark.parametrize("tied", [False, True])
def test_a_local_checkpoint_is_loaded_and_trained_by_name(tied: bool, tmp_path: Path) -> None:
    theirs = reference(tied)
    theirs.save_pretrained(tmp_path)
    ours = build("hugging-face", path=tmp_path)
    assert torch.allclose(ours(tokens()), theirs(tokens()).logits, atol=1e-6)
    weights = ours.state_dict()
    assert weights.keys() == dict(ours.named_parameters()).keys()
    assert ("own.lm_head.weight" in weights) is not tied


TAGS = InputSpec((LENGTH,), 3, (), (), vocabulary=VOCABULARY, padding=0)


@pytest.mark.parametrize("tied", [False, True])
def test_a_tagger_is_that_of_the_transformers_package(tied: bool, tmp_path: Path) -> None:
    language_model = reference(tied)
    language_model.save_pretrained(tmp_path)
    theirs = transformers.LlamaForTokenClassification(
        transformers.LlamaConfig(**{**language_model.config.to_dict(), "num_labels": 3})
    ).eval()
    theirs.model.load_state_dict(language_model.model.state_dict())
    for name in ("tiny-llama", "hugging-face"):
        ours = build(name, TAGS, **(SIZES if name == "tiny-llama" else {"path": tmp_path})).eval()
        before = "" if name == "tiny-llama" else "own.model."
        weights = {before + k: v for k, v in theirs.model.state_dict().items()}
        head = "lm_head.score" if name == "tiny-llama" else "own.lm_head.score"
        weights |= {f"{head}.{k}": v for k, v in theirs.score.state_dict().items()}
        ours.load_state_dict(weights)
        assert torch.allclose(ours(tokens()), theirs(tokens()).logits, atol=1e-5)
        assert ours.padding_token == 0


def test_a_tagger_drops_hidden_states_and_starts_unbiased() -> None:
    model = build(about=TAGS, **SIZES)
    (site,) = masks.dropout_sites(model, TAGS.shape, 2, TAGS.dtype)
    assert (site.name, site.rate, site.shape) == ("lm_head.dropout", 0.1, (2, LENGTH, 16))
    assert not bool(model.get_parameter("lm_head.score.bias").any())
    with pytest.raises(FedsimError, match="tags need their own output layer"):
        build(about=TAGS, **SIZES, tied=True)


def test_unusable_checkpoints_are_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match=r"there is no .*config\.json"):
        build("hugging-face", path=tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "auto_map": {"AutoModel": "x.py"}}')
    with pytest.raises(FedsimError, match="wants to run its own code"):
        build("hugging-face", path=tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FedsimError, match=r"holds no \.safetensors file"):
        build("hugging-face", path=tmp_path)
    reference().save_pretrained(tmp_path)
    with pytest.raises(FedsimError, match="the tokenizer has 12 tokens, the model in .* only 11"):
        build("hugging-face", spec(vocabulary=12), path=tmp_path)
    with pytest.raises(FedsimError, match=r"data\.length is 33, expected at most 32"):
        build("hugging-face", spec(length=33), path=tmp_path)
    (tmp_path / "config.json").write_text("no json")
    with pytest.raises(FedsimError, match="is not JSON"):
        build("hugging-face", path=tmp_path)


def test_images_and_odd_sizes_are_refused() -> None:
    with pytest.raises(FedsimError, match="model 'tiny-llama' reads text"):
        build(about=InputSpec((3, 8, 8), 10, (0.0,) * 3, (1.0,) * 3))
    with pytest.raises(FedsimError, match="expected a width that is a multiple of 8"):
        build(**{**SIZES, "width": 20})
    with pytest.raises(FedsimError, match="key_value_heads that divide the heads"):
        build(**{**SIZES, "key_value_heads": 3})
