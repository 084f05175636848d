"""Label noise: in every class an exact share of random examples gets a wrong class.

Symmetric: the other class is uniform. Asymmetric: the class is replaced by a similar class. On CIFAR-10: truck ->
automobile, bird -> airplane, deer -> horse, cat <-> dog, other classes unchanged (Patrini et al. 2017, arXiv
1609.03683). On other sets: the next class, and the first class after the last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Scheme = Literal["symmetric", "asymmetric"]
_MISTAKEN = {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"}
_ROUNDING = 1e-9


def noisy_labels(
    labels: Tensor, class_names: Sequence[str], scheme: Scheme, rate: float, generator: torch.Generator
) -> Tensor:
    """Return a copy of the labels with floor(r n_c) wrong labels among the n_c examples of each affected class.

    Args:
        labels: classes (N,).
        class_names: at least two, in the order of the labels.
        scheme: choice of the wrong class.
        rate: r, in [0, 1].
        generator: permutes every class, and samples symmetric classes.
    """
    noisy, classes = labels.clone(), len(class_names)
    for label, mistaken in _taken_for(class_names).items():
        members = (labels == label).nonzero().flatten()
        chosen = members[torch.randperm(len(members), generator=generator)][
            : math.floor(rate * len(members) + _ROUNDING)
        ]
        if scheme == "symmetric":
            steps = torch.randint(1, classes, (len(chosen),), generator=generator)
            noisy[chosen] = (label + steps) % classes
        elif mistaken is not None:
            noisy[chosen] = mistaken
    return noisy


def _taken_for(class_names: Sequence[str]) -> dict[int, int | None]:
    """Return the wrong class of each class; None for a class without wrong labels."""
    places = {name: index for index, name in enumerate(class_names)}
    if not places.keys() >= {*_MISTAKEN, *_MISTAKEN.values()}:
        return {index: (index + 1) % len(class_names) for index in range(len(class_names))}
    return {index: places.get(_MISTAKEN.get(name, "")) for name, index in places.items()}
