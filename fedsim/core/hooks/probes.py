"""Base class of probes, which `fedsim.generation.probing` runs."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from fedsim.core.hooks.components import Component, Hook
from fedsim.core.types import Modality, Tensors
from fedsim.core.types.configured import IMAGES_AND_TEXT, ConfigT


class Probe(Component[ConfigT]):
    """Hook probe: predicts a property from hidden states. An instance is stateless: `fit` returns what it learned."""

    hook: ClassVar[Hook] = "probe"
    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    @abstractmethod
    def fit(self, hidden: Tensor, labels: Tensor, generator: torch.Generator) -> Tensors:
        """Fit the probe, and return its tensors by name.

        Args:
            hidden: states of a layer, shape (N, width), without gradients.
            labels: classes (N,).
            generator: random source of the probe.

        Raises:
            NotApplicable: the states or labels do not suit the probe.
        """

    @abstractmethod
    def predict(self, learned: Tensors, hidden: Tensor) -> Tensor:
        """Return the probability of each class, shape (N, K).

        Args:
            learned: result of `fit`; it is not changed.
            hidden: states of the same layer, shape (N, width).
        """
