"""What attacks share that put a block with an imprint layer in front of the clients' model."""

from __future__ import annotations

from torch import Tensor, nn

from fedsim.core.errors import NotApplicable
from fedsim.core.types import Observation

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
        return "the clients' model has no imprint: the server did not change it for this attack"
    if not {f"{layer}.weight", f"{layer}.bias"} <= observation.update.tensors.keys():
        return f"the server does not see the gradient of its imprint layer '{layer}'"
    return None
