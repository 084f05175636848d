"""Base class of attribute inference attacks on updates."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.grants import Grants
from fedsim.core.types import Modality, Tensors
from fedsim.core.types.configured import ANYTHING, ConfigT, ConfiguredMethod


class AttributeAttack(ConfiguredMethod[ConfigT]):
    """Infers the value of an attribute of the data behind each update. Subclasses implement `describe` and `read`.

    The attacker trains on updates that it computes itself, at the weights that the clients received, from public
    examples with known attribute.
    """

    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    @classmethod
    def missing_grants(cls, grants: Grants) -> str | None:
        """Return an error text about the missing view; None if the grants suffice."""
        if grants.view == "single-update":
            return None
        return (
            f"reads updates of single clients, but threat.view = '{grants.view}'. Set threat.view = 'single-update', "
            "or leave the attributes out."
        )

    @abstractmethod
    def describe(self, change: Tensors, generator: torch.Generator) -> Tensor:
        """Return a feature vector of an update, shape (F,).

        Args:
            change: tensors of the update of a client or of public examples that the server sees.
            generator: random source with the same initial state for all updates of a round.
        """

    @abstractmethod
    def read(self, known: Tensor, labels: Tensor, unknown: Tensor, generator: torch.Generator) -> Tensor:
        """Return the probability of each value for each unknown update, shape (N, K).

        Args:
            known: features of updates of public examples, shape (P, F).
            labels: their values, indices (P,); each of the K values occurs.
            unknown: features of the clients' updates, shape (N, F).
            generator: random source of the attacker.
        """

    @final
    def __call__(self, known: Tensor, labels: Tensor, unknown: Tensor, generator: torch.Generator) -> Tensor:
        """Call `read`, and check the probabilities.

        Raises:
            NotApplicable: the attack does not fit; with the reason.
            FedsimError: the probabilities have another shape, or are not finite.
        """
        return self.check_probabilities(self.read(known, labels, unknown, generator).detach(), labels, unknown)

    @staticmethod
    def check_probabilities(probabilities: Tensor, labels: Tensor, unknown: Tensor) -> Tensor:
        """Return the probabilities after checking shape and values.

        Raises:
            FedsimError: the probabilities have another shape, or are not finite.
        """
        expected = (len(unknown), int(labels.max()) + 1)
        if probabilities.shape != expected:
            raise FedsimError(f"the probabilities have shape {tuple(probabilities.shape)}, expected {expected}.")
        if not bool(probabilities.isfinite().all()):
            raise FedsimError("a probability of a value is not finite.")
        return probabilities
