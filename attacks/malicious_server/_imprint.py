"""Shared functions of attacks with an imprint layer that the server wrote into the clients' model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsim.core.errors import NotApplicable
from fedsim.core.types import Observation

SLACK = 0.1  # share of a bin by which rounding may move an example's position
HONEST = "the clients' model has no imprint: the server did not change it for this attack"

_FEWEST = 2  # examples of the server needed for a standard deviation


def check_public(public: Tensor) -> None:
    """Check that the server has examples to set its bins.

    Args:
        public: examples of the test set, shape (N, *shape).

    Raises:
        NotApplicable: the server has fewer than two.
    """
    if len(public) < _FEWEST:
        raise NotApplicable(
            "it places its bins by the server's own examples, and the test set of these data is the training set"
        )


def explain_missing_imprint(observation: Observation, block: type[nn.Module], layer: str) -> str | None:
    """Return why no imprint is readable: an honest model, or a hidden layer; None if it is readable.

    Args:
        observation: inputs of the attack.
        block: class of the module that the server inserted in front.
        layer: name of the imprint layer in the clients' model.
    """
    if not (isinstance(observation.model, nn.Sequential) and isinstance(observation.model[0], block)):
        return HONEST
    return hides_imprint(observation, layer)


def hides_imprint(observation: Observation, layer: str) -> str | None:
    """Return a clause if the gradient of the imprint layer is hidden from the server, else None."""
    if {f"{layer}.weight", f"{layer}.bias"} <= observation.update.tensors.keys():
        return None
    return f"the server does not see the gradient of its imprint layer '{layer}'"


def differences(rows: Tensor) -> Tensor:
    """Return each row minus the next, (k, ...); the last row is unchanged, since it has no bin above it."""
    return torch.cat([rows[:-1] - rows[1:], rows[-1:]])


def is_in_bins(places: Tensor, bias: Tensor, bins: Tensor) -> Tensor:
    """Return the mask of positions inside their bins, up to rounding, shape (G,).

    Args:
        places: positions above the lower edges of their bins, shape (G,).
        bias: of the imprint layer, the negative lower edge of every bin, shape (k,).
        bins: indices of the bins, shape (G,).
    """
    widths = torch.cat([bias[:-1] - bias[1:], bias.new_full((1,), torch.inf)])[bins]
    slack = SLACK * torch.where(widths.isfinite(), widths, 0.0)
    return (places > -slack) & (places < widths + slack)
