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

from attacks.core.attention import attentions
from attacks.core.noise_level import rounding_levels
from attacks.text._prefixes import Front
from attacks.text._span_search import SpanReading
from attacks.text._span_tests import ShareThreshold
from attacks.text._subspaces import Subspace, gradients_of, hard
from fedsim.components.adapter.lora import Lora, LoraConfig
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.losses import IGNORED
from fedsim.core.types import Observation, Truth
from fedsim.data._tokenizer import ModelTokenizer
from fedsim.metrics.text import score_sentences
from fedsim.models._checkpoint import causal_model
from tests.attacks.solving import hiding, sending
from tests.attacks.text.spans import (
    KNOWN,
    LENGTH,
    REPEATED,
    THREE,
    VOCABULARY,
    attacked,
    checkpoint,
    gpt2,
    inputs_of,
    llama,
    read,
    seen,
    spec,
    trained,
)
from tests.attacks.written import TABLES
from tests.federating import watched


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


def space_of(observation: Observation, layer: str) -> Subspace:
    gradients = gradients_of(observation, layer)
    return hard(layer, gradients, rounding_levels(observation, gradients))


def tagger(chosen: str, **changes: Any) -> dict[str, Any]:
    """A federation of taggers of short sentences, one each, with some blocks open; the head drops out."""
    return {
        "data": {"name": "digit-tags", "length": 5},
        "model": {"name": "tiny-llama", "width": 64, "hidden": 64, "blocks": 3},
        "components": [{"name": "causal-mask-removal", "open": chosen}],
        "federation": {"clients": 4, "batch_size": 1},
        **changes,
    }


def truth_of(truth: Truth) -> list[tuple[int, ...]]:
    return [
        tuple(row[labels != IGNORED].tolist())
        for batch in truth.original_batches
        for row, labels in zip(batch.inputs, batch.labels, strict=True)
    ]


@pytest.mark.parametrize(
    "build", [llama, lambda: llama(tied=True), checkpoint, lambda: adapted(llama(), 16), gpt2, lambda: gpt2(tied=False)]
)
def test_three_sentences_of_four_tokens_are_exact_on_any_model_of_these_names(build: Callable[[], nn.Module]) -> None:
    found = attacked(seen(build(), THREE))
    assert read(found) == inputs_of(THREE)
    assert found.diagnostics["sentences in the span"] == 3
    assert not found.notes


@pytest.mark.paper_step("dager", "decoders: prefixes grow inside the second span")
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_sentences_of_all_lengths_are_exact(data: st.DataObject) -> None:
    sentence = st.lists(st.integers(0, VOCABULARY - 1), min_size=2, max_size=6)
    sentences = data.draw(st.lists(sentence, min_size=1, max_size=5, unique_by=lambda own: own[0]))
    sentences = [[own[0], *((token + (token == own[0])) % VOCABULARY for token in own[1:])] for own in sentences]
    assert read(attacked(seen(llama(), sentences))) == inputs_of(sentences)


def test_repeats_of_a_first_token_are_not_taken_for_a_sentence() -> None:
    model = llama()
    observation = seen(model, [THREE[0]])
    layers = attentions(model)
    with torch.no_grad():
        (again,) = Front(model, layers).read_last(torch.tensor([[3, 3, 3]]))
    assert float(space_of(observation, layers[1]).distance(again)) < 1e-10
    assert read(attacked(observation)) == inputs_of([THREE[0]])


def test_beginnings_and_repeats_are_said_to_be_missing_where_one_matrix_is_embedding_and_output_layer() -> None:
    found = attacked(seen(llama(tied=True), REPEATED))
    assert read(found) == inputs_of(THREE[:2])
    assert found.notes == ("2 sentences were found for 6 examples: some are beginnings of others, or repeats",)


def test_it_returns_no_more_sentences_than_examples() -> None:
    observation = seen(llama(), THREE)
    found = attacked(replace(observation, batch_size=2))
    assert len(found.inputs) == 2
    assert set(read(found)) <= set(inputs_of(THREE))
    assert found.notes == ("3 sentences lie in the span; the 2 best were returned",)
    assert read(attacked(replace(observation, batch_size=None))) == inputs_of(THREE)


@pytest.mark.paper_step("dager", "encoders: sentences of these tokens that lie in the second span")
def test_a_model_that_looks_ahead_takes_all_arrangements() -> None:
    with seeding.isolate_randomness(8):
        model = TwoSided()
    sentences = [[3, 5, 1, 9], [2, 11, 4, 0]]
    observation = seen(model, sentences)
    assert read(attacked(observation)) == inputs_of(sentences)


@pytest.mark.parametrize("chosen", ["000", "001", "100", "111"])
@pytest.mark.parametrize("client", [0, *(pytest.param(client, marks=pytest.mark.slow) for client in (1, 2))])
def test_sentences_of_all_lengths_are_read_from_open_blocks_and_in_front_of_dropout(chosen: str, client: int) -> None:
    observation, truth, world = watched(client=client, knows=KNOWN, **tagger(chosen))
    assert [site.name for site in observation.sites if site.rate] == ["lm_head.dropout"]
    (batch,) = truth.original_batches
    (score,) = score_sentences(attacked(observation), batch, world.data.dataset.tokenizer).sentences
    assert score.values["exact"]


def test_the_order_of_long_sentences_in_open_blocks_is_found_by_descents() -> None:
    observation, truth, _ = watched(knows=KNOWN, **tagger("100", data={"name": "digit-tags"}))
    (sentence,) = truth_of(truth)
    assert len(set(sentence)) ** len(sentence) > 50_000  # more than are tried one by one
    assert read(attacked(observation)) == [sentence]


def test_dropout_in_front_is_refused_and_no_arrangement_is_no_sentence() -> None:
    model = {"name": "tiny-llama", "width": 64, "hidden": 64, "blocks": 3, "dropout": 0.1}
    observation, _, _ = watched(knows=KNOWN, **tagger("001", model=model))
    with pytest.raises(NotApplicable, match="dropout changes the layers' inputs"):
        attacked(observation)
    observation, _, _ = watched(knows=KNOWN, **tagger("100"))
    sent = observation.update.tensors
    noisy = {name: tensor + 0.3 * tensor.roll(1, 1) * ("layers.1" in name) for name, tensor in sent.items()
             if tensor.dim() > 1}  # fmt: skip
    tensors = {**observation.update.tensors, **noisy}
    nothing = attacked(sending(observation, tensors))
    assert not len(nothing.inputs)
    assert "no arrangement of the tokens at their places that was tried lies in" in nothing.stop_reason


def test_sentences_come_out_of_the_real_model(smollm2: Path) -> None:
    text = ["Nobody counts the seven green hills", "The minister of finance resigned on"]
    tokenizer = ModelTokenizer(smollm2)
    sentences = [tokenizer.encode(own) for own in text]
    found = attacked(seen(causal_model(smollm2, spec(16, 49_152)), sentences))
    assert read(found) == inputs_of(sentences)


def test_adapters_tell_too_little_with_few_rows() -> None:
    with pytest.raises(NotApplicable, match="have full rank 8: too many tokens, or noise"):
        attacked(seen(adapted(llama(), 4), THREE))


def test_unshared_attention_is_named() -> None:
    observation = seen(llama(), THREE)
    hidden = (name for name in observation.update.tensors if "layers.1.self_attn" in name)
    with pytest.raises(NotApplicable, match=r"no gradient of queries, keys or values of 'layers\.1\.self_attn'"):
        attacked(hiding(observation, *hidden))


def test_noise_leaves_no_token_in_the_span() -> None:
    noise = [{"name": "gradient-noise", "scale": 1e3}]
    observation, _, _ = watched(knows=KNOWN, **TABLES, defenses=noise, federation={"clients": 2, "batch_size": 1})
    nothing = attacked(observation)
    assert nothing.inputs.shape == (0, *observation.spec.shape)
    assert nothing.stop_reason.startswith("no token's embedding lies in the span")


@pytest.mark.paper_step("dager", "tokens whose embeddings lie in the first span")
def test_learned_positions_name_the_tokens_of_every_place_as_brute_force_does() -> None:
    model = gpt2()
    observation = seen(model, THREE)
    layers = attentions(model)[:2]
    assert layers == ["own.transformer.h.0.attn.c_attn", "own.transformer.h.1.attn.c_attn"]
    rows = observation.update.tensors[f"{layers[0]}.weight"].double()
    kept: list[Tensor] = []
    model.get_submodule(layers[0]).register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0].double()))
    inside: list[set[int]] = [set() for _ in range(LENGTH)]
    with torch.no_grad():
        for token in range(VOCABULARY):
            model(torch.full((1, LENGTH), token))
            for place, there in enumerate(kept.pop()[0]):
                fit = torch.linalg.lstsq(rows, there[:, None], rcond=1e-6, driver="gelsd").solution[:, 0]
                if (there - rows @ fit).norm() < 1e-4 * there.norm():
                    inside[place].add(token)
        reading = SpanReading(
            Front(model, layers), [space_of(observation, layer) for layer in layers], ShareThreshold(5e-4, 2000)
        )
        assert reading.front.knows_places()
        found = [set(own.tolist()) for own in reading.tokens(observation.spec)]
    assert found == inside
    assert all({own[place] for own in THREE} <= found[place] for place in range(LENGTH))
    assert {15, 35} < found[0]  # 3 stands at places 0 and 2: (15 at 2) - (3 at 2) + (3 at 0) is 15 at 0


def test_a_repeated_first_token_is_a_sentence_where_places_are_learned() -> None:
    sentences = [[3, 3, 3, 9, 2], [6, 6, 6, 6, 9]]
    assert read(attacked(seen(gpt2(), sentences))) == inputs_of(sentences)


@pytest.mark.paper_step("dager", "updates of several local steps")
@pytest.mark.parametrize(
    ("steps", "rate"),
    [(1, 1.0), (1, 1e-3), (2, 1.0), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((2, 1e-4), (4, 1e-2)))],
)
@pytest.mark.parametrize("client", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_sentences_of_several_local_steps_are_exact(steps: int, rate: float, client: int) -> None:
    tables = {**TABLES, "model": {"name": "tiny-llama", "width": 128}}
    observation, truth, _ = watched(client=client, knows=KNOWN, **tables, federation=trained(steps, rate))
    assert observation.update.kind == "delta"
    assert read(attacked(observation)) == sorted(truth_of(truth))


@pytest.mark.parametrize("knows", [(), ("defenses",)])
@pytest.mark.parametrize("client", range(2))
def test_a_sentence_is_exact_in_noise_of_a_hundredth(client: int, knows: tuple[str, ...]) -> None:
    noise = [{"name": "gradient-noise", "scale": 0.01, "relative": True}]
    observation, truth, _ = watched(
        client=client, knows=(*KNOWN, *knows), **TABLES, defenses=noise, federation={"clients": 2, "batch_size": 1}
    )
    layer = attentions(observation.model)[1]
    assert space_of(observation, layer).size == 64
    assert read(attacked(observation)) == truth_of(truth)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sentences_are_exact_in_half_precision(dtype: torch.dtype) -> None:
    observation = seen(llama(), THREE)
    exact = observation.update
    for convert in (lambda own: own.to(dtype), lambda own: own.to(dtype).float()):
        tensors = {name: convert(tensor) for name, tensor in exact.tensors.items()}
        assert read(attacked(replace(observation, update=replace(exact, tensors=tensors)))) == inputs_of(THREE)


@pytest.mark.parametrize("rate", [pytest.param(0.1, marks=pytest.mark.slow), 0.5])
def test_words_come_back_through_dropout_where_the_embedding_is_not_shared(rate: float) -> None:
    tables = {**TABLES, "model": {"name": "tiny-llama", "width": 64, "hidden": 64, "dropout": rate}}
    observation, truth, _ = watched(knows=KNOWN, **tables, federation={"clients": 2, "batch_size": 1})
    found = attacked(hiding(observation, "embed_tokens.weight"))
    (sentence,) = truth_of(truth)
    assert sorted(token for row in read(found) for token in row) == sorted(set(sentence))
    with pytest.raises(NotApplicable, match="dropout changes the layers' inputs"):
        attacked(observation)


def test_fresh_adapters_with_more_rows_than_tokens_tell_whole_sentences() -> None:
    tokens = sum(map(len, THREE))
    found = attacked(seen(adapted(llama(), tokens + 4, start=0.0), THREE))
    assert read(found) == inputs_of(THREE)
    with pytest.raises(NotApplicable, match="more adapter rows than tokens in the batch"):
        attacked(seen(adapted(llama(), 4, start=0.0), THREE))


@pytest.mark.paper_step("dager", "low-rank adapters: span of the gradient of A")
@pytest.mark.parametrize("start", [0.0, 0.1])
def test_adapters_of_peft_tell_the_same_before_the_first_round_and_later(start: float) -> None:
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    torch.manual_seed(0)
    rank = sum(map(len, THREE)) + 4
    model = get_peft_model(llama(), PeftConfig(target_modules=["q_proj", "v_proj"], r=rank))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, own in model.named_parameters():
            if "lora_B" in name and start:
                own.normal_(0.0, start)
    assert read(attacked(seen(model, THREE))) == inputs_of(THREE)
