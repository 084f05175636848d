"""ESimCSE against losses, repetitions and queues written out by hand, and through a client's rounds."""

import copy
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import chisquare
from torch import Tensor, nn

from fedsim.cli import display
from fedsim.components.loss.esimcse import (
    EsimCse,
    EsimCseConfig,
    compute_queue_loss,
    contrast,
    most_repeated,
    repeat,
    sample_repeats,
    two_views,
    update_follower,
)
from fedsim.core.errors import FedsimError, NotApplicable, ScenarioError
from fedsim.core.nets.masks import inject_masks
from fedsim.core.types import Memory, Tensors, WireEntry
from fedsim.experiment import training
from fedsim.federation import cohort
from fedsim.federation.apps import evaluate_model
from fedsim.federation.client import local_training
from fedsim.metrics.testing import agreement
from fedsim.record import RoundRecord
from fedsim.scenario import Scenario, parse
from fedsim.scenario import world as worlds
from fedsim.scenario.world import World
from fedsim.threat.replay import replay
from tests.components.loss.contrast import doubled, rows, simcse
from tests.federating import recorded

Build = Callable[..., Scenario]
PADDING, BEGIN, END = 0, 1, 2
SMALL = {"name": "tiny-encoder", "width": 16, "hidden": 16, "heads": 2, "dropout": 0.3}
WORDS = ("red", "green", "old", "new", "small", "large", "dog", "cat", "house", "tree")


@pytest.fixture
def sentences(scenario: Build, tmp_path: Path) -> Callable[..., World]:
    """Build a world of 40 pairs of made-up sentences of different lengths."""
    lines = [
        f"{' '.join(WORDS[(n * k + k) % 10] for k in range(1, 3 + n % 6))} {n},{WORDS[n % 10]} {n}th,{n % 6}"
        for n in range(40)
    ]
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(lines))

    def build(federation: dict[str, Any] | None = None, **settings: Any) -> World:
        return worlds.build(
            scenario(
                data={"name": "sentence-pairs", "path": str(path), "length": 12},
                model=SMALL,
                federation={"clients": 3, "batch_size": 5, **(federation or {})},
                components=[{"name": "esimcse", **settings}],
            )
        )

    return build


# --- the sum of a round


def test_a_mean_of_contrastive_gradients_is_not_that_of_the_union_and_is_refused_before_any_training(
    scenario: Build, sentences: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = sentences(dup_rate=0.0, queue_size=0)
    first, second = rows(6), rows(6, seed=1)
    halves = (contrast(first[:3], second[:3], 0.05) + contrast(first[3:], second[3:], 0.05)) / 2
    assert abs(float(contrast(first, second, 0.05) - halves)) > 0.1
    raw = world.scenario.model_dump(mode="json")
    built = parse({**raw, "threat": {"view": "sum"}, "attacks": [{"name": "auto"}]}, "test")
    monkeypatch.setattr(training, "federate", lambda *_: pytest.fail("it trained"))
    with pytest.raises(FedsimError, match="component esimcse depends on each client's whole batch. Set threat.view"):
        recorded(built, tmp_path / "run")


# --- the loss


@pytest.mark.paper_step("esimcse", "contrastive loss with queued negatives")
@given(st.integers(1, 6), st.integers(0, 7), st.floats(0.05, 2))
def test_the_loss_is_the_one_written_out_and_negatives_never_lower_it(batch: int, more: int, t: float) -> None:
    first, second, queue = rows(batch), rows(batch, seed=1), rows(more, seed=2)
    plain, added = float(contrast(first, second, t)), float(compute_queue_loss(first, second, queue, t))
    assert plain == pytest.approx(simcse(first, second, t), abs=1e-6)
    assert plain + added == pytest.approx(simcse(first, second, t, queue), abs=1e-6)
    assert added >= 0
    assert (added > 0) is bool(more)


def test_the_gradient_of_the_loss_is_right_for_both_views_and_one_sided() -> None:
    first, second, queue = rows(3).requires_grad_(), rows(3, seed=1).requires_grad_(), rows(4, seed=2)
    assert torch.autograd.gradcheck(
        lambda a, b: contrast(a, b, 0.5) + compute_queue_loss(a, b, queue, 0.5), (first, second)
    )
    ways = [float(contrast(*views, 0.5).detach()) for views in ((first, second), (second, first))]
    assert ways[0] != pytest.approx(ways[1], abs=1e-4)


# --- repetition


@pytest.mark.paper_step("esimcse", "repetition of words as the second view")
@given(st.lists(st.integers(3, 9), min_size=1, max_size=14), st.integers(0, 5), st.data())
def test_the_second_view_is_the_sentence_with_chosen_tokens_twice(words: list[int], filled: int, data: Any) -> None:
    sentence = [BEGIN, *words, END] + [PADDING] * filled
    mode = data.draw(st.sampled_from(["paper", "bpe"]))
    rate = data.draw(st.floats(0, 1))
    tokens = torch.tensor([sentence, sentence])
    places = sample_repeats(
        tokens, PADDING, (BEGIN, END), mode, rate, torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    )
    more = most_repeated(len(sentence), mode, rate)
    view = repeat(tokens, places, more, PADDING)
    assert view.shape == (2, len(sentence) + more)
    for place, row in zip(places.tolist(), view.tolist(), strict=True):
        assert row == doubled(sentence, place) + [PADDING] * (more - sum(place))
        assert not any(twice for token, twice in zip(sentence, place, strict=True) if token in (PADDING, BEGIN, END))
        assert sum(place) <= min(len(words), most_repeated(len(words) + 2, mode, rate))
        assert sum(token != PADDING for token in row) == len(words) + 2 + sum(place)


@pytest.mark.parametrize(
    ("mode", "rate", "length", "most"),
    [
        ("paper", 0.32, 3, 2), ("paper", 0.32, 20, 6), ("paper", 1e-9, 20, 2), ("paper", 0.0, 20, 0),
        ("bpe", 0.32, 3, 0), ("bpe", 0.32, 20, 5), ("bpe", 0.32, 100, 9), ("bpe", 0.0, 20, 0),
    ],
)  # fmt: skip
def test_the_number_of_repetitions_is_uniform_up_to_the_most(mode: Any, rate: float, length: int, most: int) -> None:
    assert most_repeated(length, mode, rate) == most
    tokens = torch.full((20_000, length), 5)
    numbers = sample_repeats(tokens, None, (), mode, rate, torch.Generator().manual_seed(4)).sum(1)
    counts = numbers.bincount(minlength=most + 1)
    assert len(counts) == most + 1
    if most:
        assert chisquare(counts.numpy()).pvalue > 1e-3


# --- E' and the queue


@pytest.mark.paper_step("esimcse", "momentum encoder")
@given(st.integers(1, 30), st.floats(0, 0.999))
def test_the_follower_comes_closer_by_the_momentum_to_the_power_of_the_steps(steps: int, momentum: float) -> None:
    encoder = nn.Linear(3, 2)
    first = update_follower(encoder, {}, momentum)
    assert all(torch.equal(first[f"follower.{name}"], p) for name, p in encoder.named_parameters())
    start = {name: t + rows(1, t.numel()).view_as(t).float() for name, t in first.items()}
    memory = dict(start)
    for _ in range(steps):
        memory = update_follower(encoder, memory, momentum)
    for name, p in encoder.named_parameters():
        expected = momentum**steps * (start[f"follower.{name}"] - p.detach())
        assert torch.allclose(memory[f"follower.{name}"] - p.detach(), expected, atol=1e-5)
        assert not memory[f"follower.{name}"].requires_grad


def stepped(world: World, memory: Memory, rounds: int) -> list[tuple[Tensors, Any, Any]]:
    """One client's rounds from weights that change as its updates say: weights, update and private side of each."""
    weights, seen = dict(world.models.first_weights), []
    for round_ in range(1, rounds + 1):
        update, truth = local_training(world, weights, round_, 0, memory)
        seen.append((weights, update, truth))
        weights = {name: w - 0.002 * update.tensors[name] for name, w in weights.items()}
    return seen


@pytest.mark.paper_step("esimcse", "queue of earlier sentences")
def test_the_queue_holds_the_last_sentences_in_order_as_the_follower_sees_them(
    sentences: Callable[..., World],
) -> None:
    world = sentences(queue_size=12, momentum=0.9)
    memory: Memory = {}
    seen = stepped(world, memory, 4)
    model = copy.deepcopy(world.models.load_weights(world.models.first_weights))
    views = two_views(model)
    assert views is not None
    follower: Tensors = {}
    expected: list[Tensor] = []
    for weights, _, truth in seen:
        model.load_state_dict(weights)
        own = {name: p.detach().clone() for name, p in views.encoder.named_parameters()}
        follower = {n: 0.9 * follower[n] + 0.1 * p for n, p in own.items()} if follower else own
        head = copy.deepcopy(views.head)
        views.encoder.load_state_dict(follower, strict=False)
        with torch.no_grad():
            expected.append(head(views.encoder.eval()(truth.original_batches[0].inputs)))
    kept = memory["loss 0"]["queue"]
    assert torch.allclose(kept, torch.cat(expected)[-12:], atol=1e-6)
    assert not kept.requires_grad


def outputs_of(world: World, weights: Tensors, truth: Any) -> Tensor:
    """Both views of the private batch, made by hand from masks and repetitions that were written down."""
    model = world.models.load_weights(weights)
    views = two_views(model)
    assert views is not None
    padding = world.facts.federation.padding
    assert padding is not None
    inputs, places = truth.original_batches[0].inputs, truth.draws[0]["esimcse.repeated"]
    more = truth.masks[0][7].shape[1] - 12
    longer = [doubled(row, place) for row, place in zip(inputs.tolist(), places.tolist(), strict=True)]
    second = torch.tensor([row + [padding] * (12 + more - len(row)) for row in longer])
    half = len(truth.masks[0]) // 2
    found = []
    for tokens, masks in ((inputs, truth.masks[0][:half]), (second, truth.masks[0][half:])):
        sites = [site for site in world.models.sites if (site.call < half) == (tokens is inputs)]
        renumbered = tuple(
            type(site)(number, site.name, site.rate, tuple(mask.shape)) for number, (site, mask) in
            enumerate(zip(sites, masks, strict=True))
        )  # fmt: skip
        with torch.no_grad(), inject_masks(renumbered, masks):
            found.append(views.head(views.encoder(tokens)))
    return torch.stack(found, 1)


def test_without_repetition_and_queue_a_client_minimises_simcse(sentences: Callable[..., World]) -> None:
    world = sentences(dup_rate=0.0, queue_size=0)
    world.check()
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    assert not truth.draws[0]["esimcse.repeated"].any()
    views = outputs_of(world, world.models.first_weights, truth)
    assert update.loss == pytest.approx(simcse(views[:, 0], views[:, 1]), abs=1e-6)
    first, second = views.unbind(1)
    assert float(F.cosine_similarity(first, second).max()) < 1 - 1e-4  # dropout is on, and independent


def test_what_is_sent_is_encoder_and_head_and_what_stays_is_remembered_over_rounds(
    sentences: Callable[..., World],
) -> None:
    world = sentences(queue_size=7, federation={"algorithm": "fedavg", "local_steps": 2})
    assert world.facts.keeps_state
    memory: Memory = {}
    seen = stepped(world, memory, 2)
    assert {name.split(".")[0] for name in seen[0][1].tensors} == {"encoder", "head"}
    assert memory["loss 0"]["queue"].shape == (7, 16)
    assert {name.split(".")[0] for name in memory["loss 0"]} == {"queue", "follower"}
    forgetful, _ = local_training(world, seen[1][0], 2, 0)
    assert forgetful.loss != seen[1][1].loss
    entry = WireEntry(2, 0, seen[1][0], seen[1][1], earlier={0: ((1, seen[0][0]),)})
    assert replay(world, entry).matches
    assert not sentences(queue_size=0).facts.keeps_state


def test_evaluation_uses_the_plain_embedding_and_is_a_rank_correlation(sentences: Callable[..., World]) -> None:
    world = sentences()
    utility = evaluate_model(world, world.models.first_weights)
    model = world.models.load_weights(world.models.first_weights).eval()
    views = two_views(model)
    assert views is not None
    assert world.data.dataset.similarities is not None
    with torch.no_grad():
        plain = views.encoder(world.data.dataset.test.inputs)
        assert torch.allclose(model(world.data.dataset.test.inputs), plain)
    expected = agreement(plain, world.data.dataset.similarities)
    assert utility == {"test_spearman": pytest.approx(expected, abs=1e-6)}
    out = StringIO()
    record = RoundRecord(
        round=1, cohort=(0,), participants=(0,), training_loss=1.0, test_metrics={"test_spearman": 0.25}
    )
    display.PlainLines(Console(file=out, width=200)).round(record)
    assert "Spearman correlation 0.250" in out.getvalue()


# --- what does not fit


def test_engines_and_defenses_that_take_examples_apart_are_refused(sentences: Callable[..., World]) -> None:
    with pytest.raises(FedsimError, match="engine 'vectorized' has no place for loss terms such as 'esimcse'"):
        cohort.check(sentences())
    world = sentences(federation={"sampling": "poisson"})
    raw = world.scenario.model_dump(mode="json")
    private = worlds.build(Scenario.model_validate({**raw, "defenses": [{"name": "dp-sgd", "noise_multiplier": 1.0}]}))
    with pytest.raises(ScenarioError, match="'dp-sgd' does not fit: the loss term EsimCse is not clipped"):
        private.check()


def test_lonely_sentences_and_too_few_positions_are_refused(sentences: Callable[..., World]) -> None:
    with pytest.raises(ScenarioError, match="a batch holds 1 and no queue is set"):
        sentences(federation={"batch_size": 1}, queue_size=0).check()
    sentences(federation={"batch_size": 1}).check()
    raw = sentences().scenario.model_dump(mode="json")
    tight = worlds.build(Scenario.model_validate({**raw, "model": {**SMALL, "positions": 14}}))
    with pytest.raises(ScenarioError, match="has up to 15 tokens, but the model reads 14"):
        tight.check()


def test_other_models_and_other_moments_are_refused() -> None:
    component = EsimCse(EsimCseConfig())
    with pytest.raises(NotApplicable, match="Linear is none. Choose model 'tiny-encoder' or 'minilm'"):
        component.prepare(nn.Linear(2, 2), torch.Generator())
    with pytest.raises(NotApplicable, match="exist only in training"):
        component.objective(rows(3), torch.zeros(3), 1)


def test_a_batch_is_not_among_its_own_negatives_and_the_first_loss_is_plain_simcse(
    sentences: Callable[..., World],
) -> None:
    with_queue, without = sentences(queue_size=160), sentences(queue_size=0)
    memory: Memory = {}
    (first, second) = stepped(with_queue, memory, 2)
    assert first[1].loss == local_training(without, without.models.first_weights, 1, 0)[0].loss
    alone, _ = local_training(without, second[0], 2, 0)
    (draws,), (masks,) = second[2].draws, second[2].masks
    views = outputs_of(with_queue, second[0], second[2])
    queue = memory["loss 0"]["queue"][:5]
    assert second[1].loss == pytest.approx(simcse(views[:, 0], views[:, 1], queue=queue), abs=1e-5)
    assert second[1].loss > alone.loss
    assert len(masks) == 2 * (1 + 3 * 2)
    assert draws["esimcse.repeated"].shape == (5, 12)
    assert len(memory["loss 0"]["queue"]) == 2 * 5  # not full: both batches
