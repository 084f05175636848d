"""What attacks share that read examples off an imprint layer, which the server wrote into the clients' model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsim.core.errors import NotApplicable
from fedsim.core.types import Observation

SLACK = 0.1  # of a bin, for examples whose place is rounded
HONEST = "the clients' model has no imprint: the server did not change it for this attack"

_FEWEST = 2  # examples of the server, which have a spread


def check_public(public: Tensor) -> None:
    """Check that the server has examples to place its bins by.

    Args:
        public: those of the test set, shape (N, *shape).

    Raises:
        NotApplicable: it has fewer than two.
    """
    if len(public) < _FEWEST:
        raise NotApplicable(
            "it places its bins by the server's own examples, and the test set of these data is the training set"
        )


def without_imprint(observation: Observation, block: type[nn.Module], layer: str) -> str | None:
    """Return why there is no imprint to read: an honest model, or a hidden layer; None where there is one.

    Args:
        observation: what the server saw.
        block: class of the module that it put in front.
        layer: name of the imprint layer in the clients' model.
    """
    if not (isinstance(observation.model, nn.Sequential) and isinstance(observation.model[0], block)):
        return HONEST
    return hides_imprint(observation, layer)


def hides_imprint(observation: Observation, layer: str) -> str | None:
    """Return that the server does not see the gradient of its imprint layer; None where it does."""
    if {f"{layer}.weight", f"{layer}.bias"} <= observation.update.tensors.keys():
        return None
    return f"the server does not see the gradient of its imprint layer '{layer}'"


def differences(rows: Tensor) -> Tensor:
    """Return each row minus the next, (k, ...); the last row is kept, since no bin is above it."""
    return torch.cat([rows[:-1] - rows[1:], rows[-1:]])


def in_bins(places: Tensor, bias: Tensor, bins: Tensor) -> Tensor:
    """Return which places lie in their bins, or as near as rounding leaves them, shape (G,).

    Args:
        places: above the lower edge of the bin of each, shape (G,).
        bias: of the imprint layer, the negative lower edge of every bin, shape (k,).
        bins: the bin of each, shape (G,).
    """
    widths = torch.cat([bias[:-1] - bias[1:], bias.new_full((1,), torch.inf)])[bins]
    slack = SLACK * torch.where(widths.isfinite(), widths, 0.0)
    return (places > -slack) & (places < widths + slack)
