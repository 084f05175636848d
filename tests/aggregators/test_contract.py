"""What every aggregator promises. Driven by the registry: a new file is covered without a change here."""

import pytest
import torch
from torch import Tensor

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Aggregator
from tests.federating import a_round

NAMES = list(registry.methods("aggregator"))
# A rule that acts without updates adds something of its own, so what it makes of them is not a mean of them.
AVERAGING = [name for name in NAMES if not registry.get("aggregator", name).make.acts_without_updates]
NEEDS_MORE_THAN_ONE = {"krum"}
NOT_ROBUST = {"mean", "compensated-mean", "product-mean"}
EXAMPLES = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]


def vectors(clients: int = 10, size: int = 37, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(clients, size, generator=torch.Generator().manual_seed(clients), dtype=dtype)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_rule_that_says_what_it_needs_to_see(name, rule):
    assert isinstance(rule(name), Aggregator)
    assert isinstance(type(rule(name)).needs_single_updates, bool)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_one_finite_vector_of_the_same_kind_comes_out_and_nothing_is_changed(name, dtype, rule, contributions):
    given = vectors(dtype=dtype)
    before = given.clone()
    combined = rule(name).combine(contributions(given, EXAMPLES), a_round())
    assert combined.shape == (37,)
    assert combined.dtype == dtype
    assert torch.isfinite(combined).all()
    combined.add_(1)
    assert torch.equal(given, before)


@pytest.mark.parametrize("name", NAMES)
def test_it_reads_once_and_gives_the_same_each_round(name, rule, contributions):
    aggregator = rule(name)
    first = aggregator.combine(iter(contributions(vectors(), EXAMPLES)), a_round())
    assert torch.equal(aggregator.combine(contributions(vectors(), EXAMPLES), a_round()), first)


@pytest.mark.parametrize("name", NAMES)
def test_who_sent_what_does_not_matter(name, rule, contributions):
    expected = rule(name).combine(contributions(vectors(), EXAMPLES), a_round())
    for seed in range(5):
        order = torch.randperm(10, generator=torch.Generator().manual_seed(seed))
        permuted = contributions(vectors()[order], [EXAMPLES[index] for index in order])
        assert torch.allclose(rule(name).combine(permuted, a_round()), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", AVERAGING)
def test_equal_contributions_give_that_vector(name, rule, contributions):
    vector = vectors(1)[0]
    assert torch.allclose(
        rule(name).combine(contributions(vector.repeat(10, 1), EXAMPLES), a_round()), vector, rtol=1e-6
    )


@pytest.mark.parametrize("name", AVERAGING)
def test_one_contribution_is_returned_or_refused_with_the_setting(name, rule, contributions):
    settings = "|".join(registry.get("aggregator", name).config.model_fields)
    alone = contributions(vectors(1), [7])
    if name in NEEDS_MORE_THAN_ONE:
        with pytest.raises(FedsimError, match=rf"aggregation\.({settings}) is"):
            rule(name).combine(alone, a_round())
    else:
        assert torch.allclose(rule(name).combine(alone, a_round()), vectors(1)[0], rtol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", NAMES)
def test_one_of_ten_moves_a_robust_rule_no_further_than_the_others_are_apart(name, sign, rule, contributions):
    honest = vectors()
    attacked = honest.clone()
    attacked[4] = sign * 1e6
    moved = rule(name).combine(contributions(attacked), a_round()) - rule(name).combine(
        contributions(honest), a_round()
    )
    apart = honest.amax(dim=0) - honest.amin(dim=0)
    assert bool((moved.abs() <= apart).all()) is (name not in NOT_ROBUST)
