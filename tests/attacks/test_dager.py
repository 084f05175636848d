"""DAGER: every sentence exactly, and a reason where it does not apply."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attacks._prefixes import Front, attentions, shared_gradients, span
from fedsim import registry, seeding
from fedsim.components.adapter.lora import Lora, LoraConfig
from fedsim.data._tokenizer import ModelTokenizer
from fedsim.errors import NotApplicable
from fedsim.losses import IGNORED, cross_entropy
from fedsim.metrics.text import score_sentences
from fedsim.models._checkpoint import CausalModel, causal_model
from fedsim.types import InputSpec, Observation, Reconstruction, Truth
from fedsim.world import World

Watched = Callable[..., tuple[Observation, Truth, World]]
KNOWN = ("batch-size", "dropout-rates")
VOCABULARY, LENGTH = 50, 4


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Any]:
    words = ["rain", "falls", "on", "seven", "green", "hills", "and", "nobody", "counts", "them", "when", "it", "ends"]
    documents = [" ".join(words[(5 * d + k * (d % 4 + 1)) % 13] for k in range(7)) + "." for d in range(20)]
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    return {
        "data": {"name": "text-file", "path": str(tmp_path / "text.txt"), "length": 10, "words": 30},
        "model": {"name": "tiny-llama", "width": 64, "hidden": 64},
        "threat": {"knows": list(KNOWN)},
    }


def attacked(observation: Observation, **changes: Any) -> Reconstruction:
    method = registry.get("attack", "dager")
    return method.make(method.config(**changes))(observation, seeding.generator(0, "attack"))


def spec(length: int, vocabulary: int) -> InputSpec:
    return InputSpec((length,), vocabulary, (), (), vocabulary=vocabulary)


def llama(**changes: Any) -> nn.Module:
    method = registry.get("model", "tiny-llama")
    with seeding.contained(5):
        return method.make(
            method.config.model_validate({"width": 64, "hidden": 64, **changes}),
            spec(LENGTH, VOCABULARY),
        )


def checkpoint() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    with seeding.contained(6):
        return CausalModel(transformers.LlamaForCausalLM(config), spec(LENGTH, VOCABULARY))


def adapted(model: nn.Module, rank: int, start: float = 0.1) -> nn.Module:
    """Return a model with adapters on queries and values, as they are after some training: B is random."""
    generator = torch.Generator().manual_seed(7)
    model = Lora(LoraConfig(targets=("*.q_proj", "*.v_proj"), rank=rank)).prepare(model, generator)
    with torch.no_grad():
        for name, own in model.named_parameters():
            if name.endswith("lora_b.weight"):
                own.normal_(0.0, start, generator=generator) if start else own.zero_()
    return model


class TwoSided(nn.Module):
    """Two blocks of attention without a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(12, 32)
        self.places = nn.Parameter(torch.randn(3, 32))
        self.layers = nn.ModuleList(_Block() for _ in range(2))
        self.lm_head = nn.Linear(32, 12)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed_tokens(tokens)
        for block in self.layers:
            hidden = block(hidden, self.places[: tokens.shape[1]])
        return self.lm_head(hidden)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.ModuleDict({name: nn.Linear(32, 32) for name in ("q_proj", "k_proj", "v_proj")})

    def forward(self, hidden: Tensor, places: Tensor) -> Tensor:
        queries, keys, values = (self.self_attn[name](hidden) for name in ("q_proj", "k_proj", "v_proj"))
        return hidden + ((queries + places) @ (keys + places).mT / 4).softmax(-1) @ values


def seen(watched: Watched, tables: dict[str, Any], model: nn.Module, sentences: list[list[int]]) -> Observation:
    """Return what a server sees of one gradient of any model on these sentences, each with one more token as label."""
    longest = max(map(len, sentences)) - 1
    inputs, labels = torch.zeros(len(sentences), longest).long(), torch.full((len(sentences), longest), IGNORED)
    for row, own in enumerate(sentences):
        inputs[row, : len(own) - 1], labels[row, : len(own) - 1] = torch.tensor(own[:-1]), torch.tensor(own[1:])
    trained = {name: own for name, own in model.named_parameters() if own.requires_grad}
    gradient = torch.autograd.grad(cross_entropy(model(inputs), labels), list(trained.values()), allow_unused=True)
    tensors = {
        name: torch.zeros_like(own) if found is None else found
        for (name, own), found in zip(trained.items(), gradient, strict=True)
    }
    observation, _, _ = watched(knows=KNOWN, **tables, federation={"clients": 2, "batch_size": 1})
    vocabulary = model.get_submodule(_embedding(model)).weight.shape[0]
    return replace(
        observation,
        model=model,
        sites=(),
        batch_size=len(sentences),
        update=replace(observation.update, tensors=tensors),
        spec=InputSpec((longest,), vocabulary, (), (), vocabulary=vocabulary),
    )


def _embedding(model: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if isinstance(module, nn.Embedding))


def read(found: Reconstruction) -> list[tuple[int, ...]]:
    return sorted(tuple(token for token in row if token >= 0) for row in found.inputs.tolist())


def inputs_of(sentences: list[list[int]]) -> list[tuple[int, ...]]:
    return sorted(tuple(own[:-1]) for own in sentences)


THREE = [[3, 14, 15, 9, 2], [6, 5, 35, 8, 9], [7, 9, 3, 23, 8]]


@pytest.mark.parametrize("build", [llama, lambda: llama(tied=True), checkpoint, lambda: adapted(llama(), 16)])
def test_three_sentences_of_four_tokens_are_exact_on_any_model_of_these_names(
    build: Callable[[], nn.Module], watched: Watched, tables: dict[str, Any]
) -> None:
    found = attacked(seen(watched, tables, build(), THREE))
    assert read(found) == inputs_of(THREE)
    assert found.facts["sentences in the span"] == 3
    assert not found.notes


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_sentences_of_all_lengths_are_exact(data: st.DataObject, watched: Watched, tables: dict[str, Any]) -> None:
    sentence = st.lists(st.integers(0, VOCABULARY - 1), min_size=2, max_size=6)
    sentences = data.draw(st.lists(sentence, min_size=1, max_size=5, unique_by=lambda own: own[0]))
    sentences = [[own[0], *((token + (token == own[0])) % VOCABULARY for token in own[1:])] for own in sentences]
    assert read(attacked(seen(watched, tables, llama(), sentences))) == inputs_of(sentences)


def test_repeats_of_a_first_token_are_not_taken_for_a_sentence(watched: Watched, tables: dict[str, Any]) -> None:
    model = llama()
    observation = seen(watched, tables, model, [THREE[0]])
    places = attentions(model)
    assert places is not None
    basis = span(shared_gradients(observation, places[1])).float()
    with torch.no_grad():
        again = Front(model, places).read_last(torch.tensor([[3, 3, 3]]))
    assert float((again - again @ basis.T @ basis).norm() / again.norm()) < 1e-5
    assert read(attacked(observation)) == inputs_of([THREE[0]])


def test_beginnings_and_repeats_are_said_to_be_missing(watched: Watched, tables: dict[str, Any]) -> None:
    sentences = [THREE[0], [*THREE[0][:2], 30], THREE[0]]
    found = attacked(seen(watched, tables, llama(), sentences))
    assert read(found) == inputs_of([THREE[0]])
    assert found.notes == ("1 sentences were found for 3 examples: some are beginnings of others, or repeats",)


def test_it_returns_no_more_sentences_than_examples(watched: Watched, tables: dict[str, Any]) -> None:
    observation = seen(watched, tables, llama(), THREE)
    found = attacked(replace(observation, batch_size=2))
    assert len(found.inputs) == 2
    assert set(read(found)) <= set(inputs_of(THREE))
    assert found.notes == ("3 sentences lie in the span; the 2 that lie in it best were taken",)
    assert read(attacked(replace(observation, batch_size=None))) == inputs_of(THREE)


def test_a_model_that_looks_ahead_takes_all_arrangements(watched: Watched, tables: dict[str, Any]) -> None:
    with seeding.contained(8):
        model = TwoSided()
    sentences = [[3, 5, 1, 9], [2, 11, 4, 0]]
    observation = seen(watched, tables, model, sentences)
    assert read(attacked(observation)) == inputs_of(sentences)
    with pytest.raises(NotApplicable, match="the model looks ahead, and 6 tokens in 3 places have more .* than 200"):
        attacked(observation, arrangements=200)


def tagger(chosen: str, **changes: Any) -> dict[str, Any]:
    """A federation of taggers of short sentences, one each, with some blocks open; the head drops out."""
    return {
        "data": {"name": "digit-tags", "length": 5},
        "model": {"name": "tiny-llama", "width": 64, "hidden": 64, "blocks": 3},
        "components": [{"name": "causal-mask-removal", "open": chosen}],
        "federation": {"clients": 4, "batch_size": 1},
        **changes,
    }


@pytest.mark.parametrize("chosen", ["000", "001", "100", "111"])
@pytest.mark.parametrize("client", range(3))
def test_sentences_of_all_lengths_are_read_from_open_blocks_and_in_front_of_dropout(
    chosen: str, client: int, watched: Watched
) -> None:
    observation, truth, world = watched(client=client, knows=KNOWN, **tagger(chosen))
    assert [site.name for site in observation.sites if site.rate] == ["lm_head.dropout"]
    (batch,) = truth.private
    assert world.dataset.tokenizer is not None
    (score,) = score_sentences(attacked(observation), batch, world.dataset.tokenizer).sentences
    assert score.exact


def test_open_blocks_leave_too_many_arrangements_of_long_sentences(watched: Watched) -> None:
    observation, _, _ = watched(knows=KNOWN, **tagger("100", data={"name": "digit-tags"}))
    with pytest.raises(NotApplicable, match="the model looks ahead, and .* tokens in 12 places have more arrangements"):
        attacked(observation)


def test_dropout_in_front_is_refused_and_no_arrangement_is_no_sentence(watched: Watched) -> None:
    model = {"name": "tiny-llama", "width": 64, "hidden": 64, "blocks": 3, "dropout": 0.1}
    observation, _, _ = watched(knows=KNOWN, **tagger("001", model=model))
    with pytest.raises(NotApplicable, match="dropout changes what the layers read"):
        attacked(observation)
    observation, _, _ = watched(knows=KNOWN, **tagger("100"))
    noisy = {name: own + 0.3 * own.roll(1, 1) * ("layers.1" in name) for name, own in observation.update.tensors.items()
             if own.dim() > 1}  # fmt: skip
    tensors = {**observation.update.tensors, **noisy}
    with pytest.raises(NotApplicable, match="no arrangement of the tokens lies in the span"):
        attacked(replace(observation, update=replace(observation.update, tensors=tensors)))


def test_the_front_reads_what_the_whole_model_reads_and_leaves_it_alone() -> None:
    model = checkpoint().eval()
    before = {name: own.clone() for name, own in model.state_dict().items()}
    places = attentions(model)
    assert places == ("own.model.layers.0.self_attn", "own.model.layers.1.self_attn")
    front, tokens = Front(model, places), torch.tensor([own[:-1] for own in THREE])
    kept: list[Tensor] = []
    for place in places:
        model.get_submodule(f"{place}.q_proj").register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0]))
    with torch.no_grad():
        model(tokens)
        assert torch.allclose(front.read_first(tokens[:, 0]), kept[0][:, 0], atol=1e-6)
        assert torch.allclose(front.read_last(tokens), kept[1][:, -1], atol=1e-6)
        assert torch.allclose(front.read_all(tokens), kept[1], atol=1e-6)
        assert not front.looks_ahead(torch.tensor([0, 1]))
    assert len(kept) == 2
    assert all(torch.equal(own, before[name]) for name, own in model.state_dict().items())


def test_sentences_come_out_of_the_real_model(smollm2: Path, watched: Watched, tables: dict[str, Any]) -> None:
    text = ["Nobody counts the seven green hills", "The minister of finance resigned on"]
    tokenizer = ModelTokenizer(smollm2)
    sentences = [tokenizer.encode(own) for own in text]
    found = attacked(seen(watched, tables, causal_model(smollm2, spec(16, 49_152)), sentences))
    assert read(found) == inputs_of(sentences)


def test_blocks_behind_the_second_are_not_run() -> None:
    model = checkpoint()

    def forbidden(*_: object) -> None:
        pytest.fail("the third block was run")

    model.get_submodule("own.model.layers.2").register_forward_pre_hook(forbidden)
    places = attentions(model)
    assert places is not None
    with torch.no_grad():
        Front(model, places).read_last(torch.tensor([THREE[0][:-1]]))


def test_adapters_tell_nothing_at_first_and_too_little_with_few_rows(watched: Watched, tables: dict[str, Any]) -> None:
    with pytest.raises(NotApplicable, match="are zero: those of fresh adapters are, until the second update"):
        attacked(seen(watched, tables, adapted(llama(), 16, start=0.0), THREE))
    with pytest.raises(NotApplicable, match="have full rank 8: too many tokens, or noise"):
        attacked(seen(watched, tables, adapted(llama(), 4), THREE))


def test_unshared_attention_is_named(watched: Watched, tables: dict[str, Any]) -> None:
    observation = seen(watched, tables, llama(), THREE)
    hidden = frozenset(name for name in observation.update.tensors if "layers.1.self_attn" in name)
    tensors = {name: own for name, own in observation.update.tensors.items() if name not in hidden}
    with pytest.raises(NotApplicable, match=r"no gradient of queries, keys or values of 'layers\.1\.self_attn'"):
        attacked(replace(observation, hidden=hidden, update=replace(observation.update, tensors=tensors)))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_sentence_of_a_batch_is_exact(batch_size: int, watched: Watched, tables: dict[str, Any]) -> None:
    federation = {"clients": 2, "batch_size": batch_size}
    observation, truth, world = watched(knows=KNOWN, **tables, federation=federation)
    assert world.dataset.tokenizer is not None
    scored = score_sentences(attacked(observation), truth.private[0], world.dataset.tokenizer)
    assert [own.exact for own in scored.sentences] == [True] * batch_size


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": {"name": "tiny-llama", "width": 64, "dropout": 0.1}}, "dropout changes what the layers read"),
        ({"model": {"name": "tiny-llama", "width": 64, "blocks": 1}}, "the model has no two blocks"),
        ({"defenses": [{"name": "gradient-noise", "scale": 1e-3}]}, "have full rank 64: too many tokens, or noise"),
    ],
)
def test_it_says_why_it_does_not_apply(
    changes: dict[str, Any], reason: str, watched: Watched, tables: dict[str, Any]
) -> None:
    observation, _, _ = watched(knows=KNOWN, **{**tables, **changes}, federation={"clients": 2, "batch_size": 1})
    with pytest.raises(NotApplicable, match=reason):
        attacked(observation)
