"""Wrong labels on purpose: in every class exactly a given share, drawn at random, gets another class.

Symmetric: a class drawn evenly among the others. Asymmetric: the class that it is taken for: on CIFAR-10 truck ->
automobile, bird -> airplane, deer -> horse, cat <-> dog, the other classes untouched (Patrini et al. 2017, arXiv
1609.03683); on other sets the next class, the last one's being the first.
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
    """Return a copy of the labels in which floor(r n_c) of the n_c examples of every class that is touched are wrong.

    Args:
        labels: classes (N,).
        class_names: in the order of the labels, at least two.
        scheme: which class a wrong label names.
        rate: r, in [0, 1].
        generator: of the permutation of every class, and of the symmetric classes.
    """
    noisy, classes = labels.clone(), len(class_names)
    for label, mistaken in _taken_for(class_names).items():
        own = (labels == label).nonzero().flatten()
        chosen = own[torch.randperm(len(own), generator=generator)][: math.floor(rate * len(own) + _ROUNDING)]
        if scheme == "symmetric":
            steps = torch.randint(1, classes, (len(chosen),), generator=generator)
            noisy[chosen] = (label + steps) % classes
        elif mistaken is not None:
            noisy[chosen] = mistaken
    return noisy


def _taken_for(class_names: Sequence[str]) -> dict[int, int | None]:
    """Return by class the one that it is taken for; None for one that is not mistaken."""
    places = {name: index for index, name in enumerate(class_names)}
    if not places.keys() >= {*_MISTAKEN, *_MISTAKEN.values()}:
        return {index: (index + 1) % len(class_names) for index in range(len(class_names))}
    return {index: places.get(_MISTAKEN.get(name, "")) for name, index in places.items()}
