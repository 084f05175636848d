"""Codes against torch-hd and closed forms, readings against planted structures, and uncertainty by counting."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from fedsim.components.probe.hyperdimensional_probe import (
    HyperdimensionalProbe,
    HyperdimensionalProbeConfig,
    bind,
    bundle,
    chance_of,
    extract,
    make_codebook,
    pool_layers,
    similarity,
)
from fedsim.core.errors import FedsimError

A, B, C, D = range(4)


def book(concepts: int = 200, dimension: int = 4096, seed: int = 0) -> Tensor:
    return make_codebook(concepts, dimension, torch.Generator().manual_seed(seed))


def analogy(codes: Tensor, words: tuple[int, int, int, int]) -> Tensor:
    a, b, c, d = codes[list(words)]
    return bundle(bind(a, b), bind(c, d))


def test_codebooks_are_reproducible_and_nearly_orthogonal() -> None:
    codes = book()
    assert torch.equal(codes, book())
    assert set(codes.unique().tolist()) == {-1.0, 1.0}
    between = similarity(codes, codes)[~torch.eye(200, dtype=torch.bool)]
    # E|cos| = sqrt(2 / pi) / sqrt(D); 19,900 pairs, so 1 % is more than ten standard errors
    assert between.abs().mean().item() == pytest.approx(math.sqrt(2 / math.pi / 4096), rel=0.03)


@pytest.mark.paper_step("hyperdimensional-probe", "codes, binding and bundling")
def test_unbinding_is_exact_for_one_pair_and_half_for_two() -> None:
    codes = book()
    assert torch.equal(bind(codes[A], codes[B], codes[A]), codes[B])
    near = similarity(bind(analogy(codes, (A, B, C, D)), codes[C]), codes)
    assert near[D].item() == pytest.approx(0.5, abs=0.05)  # sd 0.014
    assert near[[A, B, *range(4, 200)]].abs().max() < 0.08  # 5 sd of a random code


@pytest.mark.parametrize("pairs", range(1, 9))
def test_bundles_are_as_near_their_members_as_counting_says(pairs: int) -> None:
    codes = book(dimension=20_000)
    members = [bind(codes[2 * i], codes[2 * i + 1]) for i in range(pairs)]
    found = similarity(bundle(*members), torch.stack(members)).mean().item()
    # one member decides where the others balance: the share of draws of k - 1 others that do
    counted = math.comb(pairs - 1, (pairs - 1) // 2) / 2 ** (pairs - 1)
    assert found == pytest.approx(counted, abs=0.02)  # 3 sd = 3 / sqrt(20,000)


def test_codes_of_unequal_size_are_refused() -> None:
    for combine in (bind, bundle, similarity):
        with pytest.raises(FedsimError, match="codes have 512 and 1024 entries, expected equal sizes"):
            combine(torch.ones(1, 512), torch.ones(1, 1024))
    with pytest.raises(FedsimError, match="expected equal sizes"):
        extract(torch.ones(512), torch.ones(4, 1024), [0])


@pytest.mark.paper_step("hyperdimensional-probe", "unbinding queries over the known words")
def test_a_true_code_gives_every_missing_word() -> None:
    codes = book(dimension=2048)
    source = torch.Generator().manual_seed(1)
    for _ in range(30):
        a, b, c, d = torch.randperm(200, generator=source)[:4].tolist()
        found = extract(analogy(codes, (a, b, c, d)), codes, [a, b, c])
        assert found.concept == d
        assert found.removed_concepts in {(c,), (a, b, c)}  # both hold it: see the closed form of a bundle of two
        assert found.chance < 1e-9


def test_words_of_the_text_are_no_answer() -> None:
    # the code without A says B as clearly as the code without C says D
    codes = book()
    code = analogy(codes, (A, B, C, D))
    assert similarity(bind(code, codes[A]), codes)[B] > 0.4
    assert extract(code, codes, [A, B, C]).concept == D
    with pytest.raises(FedsimError, match="all 3 concepts are known"):
        extract(code, codes[:3], [A, B, C])


def test_a_query_whose_own_word_comes_back_is_no_answer() -> None:
    codes = book(5)
    # the code is a word and, weakly, another: without A*B it would say A*B*C, with C nothing but C itself
    code = bundle(codes[A], codes[A], codes[A], codes[D], codes[D], bind(codes[A], codes[B]))
    found = extract(code, codes, [A, B])
    assert found.concept == D
    assert found.removed_concepts == ()


@pytest.mark.parametrize("compared", [1, 40])
def test_the_chance_of_a_similarity_is_counted(compared: int) -> None:
    draws = similarity(torch.ones(16), book(20_000 * compared, 16)).view(20_000, compared).amax(1)
    for value in (0.25, 0.5, 0.75):
        share = (draws >= value).double().mean().item()
        expected = chance_of(value, 16, compared)
        assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 20_000) + 1e-4)
    assert chance_of(-1.0, 16, compared) == chance_of(-math.inf, 16, compared) == 1


def best_partition(states: Tensor, k: int) -> float:
    """The least sum of squares of all partitions into k parts."""
    costs = []
    for own in itertools.product(range(k), repeat=len(states)):
        if len(set(own)) == k:
            parts = [states[torch.tensor(own) == number] for number in range(k)]
            costs.append((sum(float((part - part.mean(0)).square().sum()) for part in parts), own))
    least = min(costs)[1]
    return torch.stack([states[torch.tensor(least) == number].mean(0) for number in range(k)]).sum(0)  # type: ignore[return-value]


@pytest.mark.paper_step("hyperdimensional-probe", "states of the upper layers as a sum of means")
def test_pooled_layers_are_the_sum_of_the_means_of_the_best_partition() -> None:
    source = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    states = centres[[0, 0, 1, 1, 1, 2]] + torch.randn(6, 2, generator=source)
    torch.testing.assert_close(pool_layers(states, [0, 2, 5]), best_partition(states, 3))
    order = [3, 5, 0, 1, 4, 2]
    moved = [order.index(own) for own in (0, 2, 5)]
    torch.testing.assert_close(pool_layers(states[order], moved), pool_layers(states, [0, 2, 5]))
    torch.testing.assert_close(pool_layers(states, range(6)), states.sum(0))


def test_a_mean_that_nothing_is_near_moves() -> None:
    states = torch.tensor([[0.0], [0.0], [1.0], [8.0]])
    torch.testing.assert_close(pool_layers(states, [0, 1, 2]), torch.tensor([0.0 + 1 + 8]))
    assert pool_layers(torch.zeros(4, 2), [0, 1, 2]).tolist() == [0, 0]
    with pytest.raises(FedsimError, match="found 4 layers, expected at least 5"):
        pool_layers(torch.zeros(4, 2), range(5))


@pytest.mark.paper_step("hyperdimensional-probe", "encoder from states to codes")
def test_an_encoder_reads_bundles_that_it_never_saw() -> None:
    # a state is a linear image of its two words, so pairs of words that never met can be told
    codes = book(8, 256)
    source = torch.Generator().manual_seed(2)
    places = torch.randn(8, 24, generator=source)
    pairs = list(itertools.combinations(range(8), 2))
    first, second = torch.tensor(pairs).T
    states, wanted = places[first] + places[second], bundle(codes[first], codes[second])
    method = HyperdimensionalProbe(HyperdimensionalProbeConfig(dimension=256, width=128, epochs=60))
    seen, unseen = torch.arange(28) % 4 != 0, torch.arange(28) % 4 == 0
    learned = method.learn(states[seen].repeat(4, 1), wanted[seen].repeat(4, 1), source)
    assert all(not own.requires_grad for own in learned.values())
    near = similarity(method.encode(learned, states[unseen]), codes)
    found = [set(index) for index in near.topk(2).indices.tolist()]
    assert found == [set(pair) for pair, is_unseen in zip(pairs, unseen.tolist(), strict=True) if is_unseen]


def test_codes_are_those_of_torch_hd() -> None:
    hd = pytest.importorskip("torchhd", reason="pip install torch-hd")
    codes = book(5)
    own = codes.as_subclass(hd.MAPTensor)
    assert torch.equal(bind(codes[0], codes[1]), hd.bind(own[0], own[1]).as_subclass(Tensor))
    summed = hd.multiset(own[:4])
    assert torch.equal(bundle(*codes[:4]), hd.normalize(summed).as_subclass(Tensor))
    torch.testing.assert_close(similarity(codes[0], codes), hd.cosine_similarity(own[0], own).as_subclass(Tensor))
