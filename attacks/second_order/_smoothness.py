"""Whether a gradient is a smooth function of the inputs, found by trying it."""

from __future__ import annotations

import math

import torch

from attacks.core.layers import once_a_model
from attacks.core.tolerances import TINY
from attacks.second_order._client import Client
from attacks.second_order._derivatives import push_all_forward
from attacks.second_order._layout import Layout
from fedsim.core.types import Observation

_STEP = 0.1  # in normalised units: crosses kinks of every layer of ReLUs, and leaves smooth ones nearly linear
_JUMPS = 0.1  # of the change: smooth activations stay an order below, ReLU and maximum pooling lie above


@once_a_model
def refuse_kinks(observation: Observation) -> str | None:
    """Return why Newton steps mean nothing for this model, or None: how far a change is from its derivative's.

    Of a smooth function, the difference g(x + h d) - g(x - h d) differs from the derivative along d by a share of h^2;
    where units switch on and off, their contributions jump.
    """
    masks = tuple(torch.ones(site.shape, dtype=torch.float64) for site in observation.sites)
    unknowns = Layout(observation, (masks,) * observation.local_steps)
    client, generator = Client(observation), torch.Generator().manual_seed(0)
    values = torch.randn((2, unknowns.pixels), generator=generator, dtype=torch.float64).to(client.device)
    (part,) = unknowns.split(1)
    labels = torch.zeros(unknowns.examples, dtype=torch.long, device=client.device)

    def gradient(point: torch.Tensor) -> torch.Tensor:
        inputs, own = part.unpack(point, unknowns.shape)
        return client.gradient(inputs, labels, own)

    try:
        with torch.no_grad():
            change = gradient(values[0] + _STEP * values[1]) - gradient(values[0] - _STEP * values[1])
        derivative = push_all_forward(gradient, values[0], 2.0 * _STEP * values[1:])[0]
    except (NotImplementedError, RuntimeError) as error:
        return (
            f"the gradient has no derivative that can be taken in many directions at once: {str(error).splitlines()[0]}"
        )
    size = float(change.norm())
    if not math.isfinite(size) or float((change - derivative).norm()) > _JUMPS * max(size, TINY):
        return "the gradient is no smooth function of the inputs, as with ReLU or maximum pooling"
    return None
