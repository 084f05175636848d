"""What an attack on an attribute of the data behind an update implements."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.core.types import Modality, Tensors
from fedsim.core.types.configured import ANYTHING, ConfigT, Configured
from fedsim.core.types.grants import Grants


class AttributeAttack(Configured[ConfigT]):
    """Says of every update which value an attribute of its data has. Authors write `describe` and `read`.

    It learns from changes that it computes itself, of public examples whose attribute it knows, at the weights that the
    clients received.
    """

    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    @classmethod
    def needs_more(cls, grants: Grants) -> str | None:
        """Name the view that it needs."""
        if grants.sees == "single-update":
            return None
        return (
            f"reads updates of single clients, but threat.sees = '{grants.sees}'. Set threat.sees = 'single-update', "
            "or leave the attributes out."
        )

    @abstractmethod
    def describe(self, change: Tensors, generator: torch.Generator) -> Tensor:
        """Return what is kept of a change, shape (F,).

        Args:
            change: of a client or of public examples, those tensors of it that the server sees.
            generator: begins alike for every change of a round.
        """

    @abstractmethod
    def read(self, known: Tensor, labels: Tensor, unknown: Tensor, generator: torch.Generator) -> Tensor:
        """Return the probability of each value for every change that is asked about, shape (N, K).

        Args:
            known: descriptions of changes of public examples, shape (P, F).
            labels: their values, numbers (P,); each of the K values occurs.
            unknown: descriptions of the clients' changes, shape (N, F).
            generator: the attacker's randomness.
        """

    @final
    def __call__(self, known: Tensor, labels: Tensor, unknown: Tensor, generator: torch.Generator) -> Tensor:
        """Read, and check what was read.

        Raises:
            NotApplicable: with the reason.
            FedsimError: the probabilities have another shape, or one of them is not a number.
        """
        return self.checked(self.read(known, labels, unknown, generator).detach(), labels, unknown)

    @staticmethod
    def checked(probabilities: Tensor, labels: Tensor, unknown: Tensor) -> Tensor:
        """Return what was read, with its shape and its values checked.

        Raises:
            FedsimError: the probabilities have another shape, or one of them is not a number.
        """
        expected = (len(unknown), int(labels.max()) + 1)
        if probabilities.shape != expected:
            raise FedsimError(f"the probabilities have shape {tuple(probabilities.shape)}, expected {expected}.")
        if not bool(probabilities.isfinite().all()):
            raise FedsimError("a probability of a value is no finite number.")
        return probabilities
