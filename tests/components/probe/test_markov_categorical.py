"""Information measures against tables that are summed by hand, brute force over pairs, and an enumerated source."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fedsim.components.probe.markov_categorical import (
    categorical_entropy,
    estimated_surplus,
    fisher_metric,
    mutual_information,
    network_surplus,
    spectral_alignment,
    table_surplus,
)
from fedsim.core.errors import NotApplicable
from tests.components.generating import make


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def kernel(*shape: int, seed: int = 0) -> Tensor:
    return (2 * drawn(*shape, seed=seed)).softmax(-1)


def hidden_markov() -> Tensor:
    """p(h, w1, w2, w3) of a source with four states and five symbols."""
    moves, emits = (4 * torch.eye(4) + drawn(4, 4, seed=1)).softmax(-1), drawn(4, 5, seed=2).softmax(-1)
    return torch.einsum("a,ai,ab,bj,bc,ck->aijk", torch.full((4,), 0.25).double(), emits, moves, emits, moves, emits)


def one_hot(values: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(values, classes).double()


def pairs(joint: Tensor, seed: int, count: int) -> list[Tensor]:
    """Draw from a table; one tensor (count,) for each of its dimensions."""
    source = torch.Generator().manual_seed(seed)
    places = joint.flatten().multinomial(count, replacement=True, generator=source)
    return list(torch.unravel_index(places, joint.shape))


def given_first(joint: Tensor) -> float:
    """I(H; W2, W3 | W1) by its definition."""
    first, of_first = joint.sum((0, 2, 3)), joint.sum((2, 3))
    rest = joint.sum(0)
    ratio = joint * first[None, :, None, None] / (of_first[:, :, None, None] * rest)
    return float((joint * ratio.log()).sum())


@pytest.mark.paper_step("markov-categorical", "information surplus of a source")
def test_the_surplus_of_an_enumerated_source_is_the_conditional_information() -> None:
    joint = hidden_markov()
    assert table_surplus(joint) == pytest.approx(given_first(joint), abs=1e-12)
    assert mutual_information(joint) == pytest.approx(
        mutual_information(joint.sum((2, 3))) + given_first(joint), abs=1e-12
    )
    assert given_first(joint) > 0.1


@pytest.mark.paper_step("markov-categorical", "estimated surplus")
def test_the_estimated_surplus_is_that_of_the_source_and_none_for_permuted_states() -> None:
    joint = hidden_markov().sum(3)  # h, w1, w2
    state, first, second = pairs(joint, 0, 9_000)
    context, both = one_hot(first, 5), one_hot(5 * state + first, 20)
    texts, source = torch.arange(9_000), torch.Generator().manual_seed(1)
    without, with_states = estimated_surplus(context, both, second, texts, texts < 3_000)
    exact = table_surplus(joint)
    assert exact > 0.06
    assert float((without - with_states).mean()) == pytest.approx(exact, abs=0.02)  # the sheet's, n = 6,000
    mixed = one_hot(5 * state[torch.randperm(9_000, generator=source)] + first, 20)
    without, with_states = estimated_surplus(context, mixed, second, texts, texts < 3_000)
    assert abs(float((without - with_states).mean())) < 0.02


@pytest.mark.paper_step("markov-categorical", "surplus by a network")
@pytest.mark.slow
def test_a_network_sees_the_product_that_a_log_linear_head_does_not() -> None:
    """The later token is the exclusive or of token and state, so the surplus is ln 2 and no linear map sees it."""
    source = torch.Generator().manual_seed(0)
    first, state = torch.randint(0, 2, (2, 1_000), generator=source)
    texts, second = torch.arange(1_000), first ^ state
    setting = (one_hot(first, 2), one_hot(state, 2), second, texts, texts < 600)
    without, with_states = estimated_surplus(*setting)
    assert abs(float((without - with_states).mean())) < 0.02  # the sheet's
    without, with_states = network_surplus(*setting, source)
    assert float((without - with_states).mean()) == pytest.approx(math.log(2), abs=0.02)
    mixed = one_hot(state[torch.randperm(1_000, generator=source)], 2)
    without, with_states = network_surplus(setting[0], mixed, *setting[2:], source)
    assert abs(float((without - with_states).mean())) < 0.02


def test_independent_states_say_nothing_where_few_texts_teach_a_wide_head() -> None:
    """A head of one penalty for all learns such states by heart and lies below 0."""
    first, second = pairs(kernel(20, 20) / 20, 0, 1_200)
    context, noise, texts = one_hot(first, 20), drawn(1_200, 20, seed=4), torch.arange(1_200) // 8
    is_known, probe = texts < 75, make("markov-categorical", penalty=1e-3)
    without, with_states = estimated_surplus(context, noise, second, texts, is_known)
    assert abs(float((without - with_states).mean())) < 0.02  # the sheet's
    costs = []
    for read in (context, torch.cat((context, noise), 1)):
        odds = probe.predict(probe.fit(read[is_known], second[is_known], torch.Generator()), read[~is_known])
        costs.append(-odds.gather(1, second[~is_known][:, None]).log().mean())
    assert costs[0] - costs[1] < -0.02


def test_states_that_the_context_tells_say_nothing_at_all() -> None:
    first, second = pairs(kernel(5, 5) / 5, 0, 400)
    context, texts = one_hot(first, 5), torch.arange(400)
    without, with_states = estimated_surplus(context, context @ drawn(5, 3), second, texts, texts < 200)
    torch.testing.assert_close(with_states, without, atol=1e-9, rtol=0)  # rounding: no coordinate is left


BRUTE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": lambda p, q: torch.xlogy(p, p / q).sum(),
    "total-variation": lambda p, q: (p - q).abs().sum() / 2,
    "hellinger": lambda p, q: 1 - (p * q).sqrt().sum(),
    "chi-square": lambda p, q: ((p - q).square() / q).sum(),
}


@pytest.mark.paper_step("markov-categorical", "categorical entropy of the head")
@pytest.mark.parametrize("name", BRUTE)
def test_closed_forms_equal_sums_over_all_pairs(name: str) -> None:
    odds = kernel(3, 7)
    brute = torch.stack([BRUTE[name](own.diag(), torch.outer(own, own)) for own in odds])
    torch.testing.assert_close(categorical_entropy(odds, name), brute, atol=1e-10, rtol=0)  # type: ignore[arg-type]
    certain = one_hot(torch.tensor([2]), 7)
    assert float(categorical_entropy(certain, name)) == 0  # type: ignore[arg-type]


@pytest.mark.paper_step("markov-categorical", "pullback of the Fisher metric")
def test_the_metric_is_that_of_the_divergence_and_a_common_row_changes_nothing() -> None:
    head, state, direction = drawn(9, 4), drawn(4, seed=1), drawn(4, seed=2)
    odds = (head @ state).softmax(0)
    metric = fisher_metric(head, odds)
    torch.testing.assert_close(metric, metric.T)
    assert torch.linalg.eigvalsh(metric).amin() > -1e-12
    torch.testing.assert_close(fisher_metric(head + drawn(4, seed=5), odds), metric)
    size = 1e-2
    moved = (head @ (state + size * direction)).log_softmax(0)
    divergence = (moved.exp() * (moved - odds.log())).sum()
    assert float(divergence) == pytest.approx(
        float(size**2 / 2 * direction @ metric @ direction), rel=0.05
    )  # third order


@pytest.mark.paper_step("markov-categorical", "spectral alignment")
def test_alignment_is_the_sum_over_pairs_of_contexts() -> None:
    hidden, features = drawn(60, 3), drawn(60, 8, seed=1)
    centred = hidden - hidden.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / 60)
    white = centred @ vectors @ values.rsqrt().diag() @ vectors.T
    wanted = features - features.mean(0)
    similar = wanted @ wanted.T
    rayleigh = (white @ white.T * similar).mean()
    largest = torch.linalg.eigvalsh(similar / 60)[-3:].sum()
    assert spectral_alignment(hidden, features) == pytest.approx(float(rayleigh / largest), abs=1e-10)


def test_alignment_is_one_at_its_maximum_and_the_same_in_other_coordinates() -> None:
    hidden, features = drawn(60, 3), drawn(60, 8, seed=1)
    found = spectral_alignment(hidden, features)
    assert 0 < found < 1
    assert spectral_alignment(hidden @ drawn(3, 3, seed=4) + 5, features) == pytest.approx(found, abs=1e-10)
    best = torch.linalg.svd(features - features.mean(0), full_matrices=False)[0][:, :3]
    assert spectral_alignment(best, features) == pytest.approx(1, abs=1e-10)


def test_mistakes_are_named() -> None:
    probe, source = make("markov-categorical"), torch.Generator()
    for hidden, labels, message in (
        (torch.zeros(3), torch.zeros(3).long(), r"shape \(3,\), expected \(N, width\)"),
        (torch.full((2, 3), torch.inf), torch.zeros(2).long(), "not finite"),
        (torch.zeros(2, 3), torch.zeros(4).long(), "2 states and 4 labels"),
    ):
        with pytest.raises(NotApplicable, match=message):
            probe.fit(hidden, labels, source)
    with pytest.raises(NotApplicable, match="3 states of width 3, expected more"):
        spectral_alignment(drawn(3, 3), drawn(3, 2))
    with pytest.raises(NotApplicable, match="features are the same"):
        spectral_alignment(drawn(9, 3), torch.ones(9, 2))
    rare = torch.tensor([0, 1, 0, 2])
    with pytest.raises(NotApplicable, match="a label does not occur"):
        estimated_surplus(drawn(4, 1), drawn(4, 1), rare, torch.arange(4), torch.arange(4) < 3)
    with pytest.raises(NotApplicable, match="3 known texts, expected at least 4"):
        estimated_surplus(drawn(4, 1), drawn(4, 1), rare % 2, torch.arange(4), torch.arange(4) < 3)


def test_mutual_information_of_a_noisy_copy() -> None:
    flip = 0.1
    joint = torch.tensor([[1 - flip, flip], [flip, 1 - flip]]) / 2
    told = -flip * math.log(flip) - (1 - flip) * math.log(1 - flip)
    assert mutual_information(joint) == pytest.approx(math.log(2) - told, abs=1e-6)  # single precision
