"""What reads from hidden states what a model knows. `fedsim.generation.probing` runs it."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from fedsim.core.hooks.components import Component, Hook
from fedsim.core.types import Modality, Tensors
from fedsim.core.types.configured import IMAGES_AND_TEXT, ConfigT


class Probe(Component[ConfigT]):
    """Hook probe: learns to tell a property from hidden states. An instance keeps nothing: `fit` returns it all."""

    hook: ClassVar[Hook] = "probe"
    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    @abstractmethod
    def fit(self, hidden: Tensor, labels: Tensor, generator: torch.Generator) -> Tensors:
        """Return what the probe learned, by name.

        Args:
            hidden: states of a layer, shape (N, width), without gradients.
            labels: the property of each, classes (N,).
            generator: the probe's randomness.

        Raises:
            NotApplicable: the states or labels do not suit the probe.
        """

    @abstractmethod
    def predict(self, learned: Tensors, hidden: Tensor) -> Tensor:
        """Return the probability of each class, shape (N, K).

        Args:
            learned: what `fit` returned; it stays as it is.
            hidden: states of the same layer, shape (N, width).
        """
