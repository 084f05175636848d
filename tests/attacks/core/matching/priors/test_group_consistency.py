"""The pull of restarts to their mean, beside brute force."""

from itertools import permutations

import torch
from torch import Tensor

from attacks.core.matching.priors.group_consistency import group_distance


def best_group_distance(rows: Tensor) -> Tensor:
    """Of seeds (S, B, ...) whose images all have one label, against the first by brute force."""
    registered = []
    for row in rows:
        orders = [list(order) for order in permutations(range(rows.shape[1]))]
        registered.append(row[min(orders, key=lambda order: float((row[order] - rows[0]).square().sum()))])
    stacked = torch.stack(registered)
    return (stacked - stacked.mean(0)).square().flatten(1).sum(1)


def test_seeds_are_registered_within_a_label_before_they_are_averaged() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((4, 1, 5, 5), generator=generator)
    noise = 0.1 * torch.randn((3, 4, 1, 5, 5), generator=generator)
    orders = [[0, 1, 2, 3], [2, 0, 1, 3], [1, 2, 0, 3]]
    rows = torch.stack([images[order] for order in orders]) + noise
    labels = torch.tensor([6, 6, 6, 6])
    assert torch.allclose(group_distance(rows, [0, 0, 0], [labels]), best_group_distance(rows))
    apart = group_distance(rows, [0, 0, 0], [torch.tensor([1, 2, 3, 4])])
    assert torch.allclose(apart, (rows - rows.mean(0)).square().flatten(1).sum(1))


def test_victims_are_no_seeds_of_each_other() -> None:
    rows = torch.randn((4, 2, 1, 3, 3), generator=torch.Generator().manual_seed(0))
    labels = [torch.tensor([1, 2]), torch.tensor([0, 3])]
    ours = group_distance(rows, [1, 0, 1, 0], labels)
    for victim, members in ((1, [0, 2]), (0, [1, 3])):
        assert torch.allclose(ours[members], group_distance(rows[members], [victim] * 2, labels))
    assert group_distance(rows[:1], [0], labels).tolist() == [0.0]
