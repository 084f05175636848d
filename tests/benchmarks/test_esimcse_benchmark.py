"""What the benchmark of sentence embeddings counts as the right partner, against brute force."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.esimcse import retrieval


@given(st.integers(2, 9), st.integers(0, 99))
def test_the_right_partner_is_the_one_with_the_largest_cosine_of_all_partners(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(2 * count, 4, generator=generator, dtype=torch.float64)
    order = torch.randperm(2 * count, generator=generator)
    pairs = order.view(count, 2)
    hits = 0
    for first, partner in pairs.tolist():
        cosines = {
            int(other): float(torch.cosine_similarity(embeddings[first], embeddings[other], 0)) for other in pairs[:, 1]
        }
        hits += max(cosines, key=cosines.__getitem__) == partner
    assert retrieval(embeddings, pairs) == hits / count


def test_a_partner_that_several_share_is_right_for_each() -> None:
    embeddings = torch.eye(4)[[0, 0, 1, 0, 2]]
    assert retrieval(embeddings, torch.tensor([[0, 3], [1, 3], [2, 4]])) == 2 / 3
