"""robbing-the-fed: insert a layer that sorts a batch into bins, and recover each example that is alone in its bin.

Units of `variant = "sparse"` are active only within their bin, so they need no differences, and a unit that a single
example activated over several local steps still gives it; every image then gets the class that fits best. Bins are
quantiles of a normal or Laplace distribution. `gain` divides rows and biases and multiplies the map back: outputs stay
the same, and the imprint's gradient is larger by this factor, which lifts it over noise and over the rounding of
weights. A mixture is dropped if it leaves the pixel range or its bin.

Idea: the server inserts z_i = <h, x> - c_i, i = 1..k with ascending c, a ReLU and a map with equal columns in front of
    the model. Unit i is active for all examples with <h, x> > c_i, so neighbouring rows differ by the example between.
Equation: x = (dW_i - dW_{i+1}) / (db_i - db_{i+1}); with equally likely bins B (1 - 1/k)^(B-1) of B examples are alone.
Assumes: malicious server that changes the model before clients train; it has no client data, but its own examples for
    mean and spread of <h, x>. Labels and batch size need not be known; single updates or a round's mean.
Recovers: exact images, at any dropout rate after the block; under dropout the labels of single images are guesses.
Fails: examples that share a bin; noise, which makes every bin look used. Several local steps need `variant = "sparse"`.
    Clients can notice: the model learns almost nothing after the block, and `gain` enlarges the norm.
Source: Fowl et al. 2022, arXiv 2110.13057.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from attacks.core.defense_facts import inexact
from attacks.malicious_server._imprint import SLACK, check_public, differences, explain_missing_imprint, is_in_bins
from attacks.malicious_server._isolated_units import (
    Singles,
    exceeds_rounding,
    expected_examples,
    is_in_pixel_range,
    linear,
    reconstruction,
)
from attacks.malicious_server.base import CraftedUnitsAttack
from fedsim.core.errors import NotApplicable
from fedsim.core.registry import attack
from fedsim.core.types import Config, InputSpec, Observation, OnStep, Reconstruction

_LAYER = "0.1"  # the imprint layer in the clients' model
_TAIL = 1e-6
_CONSTANT = 1e-9


class RobbingTheFedConfig(Config):
    """Settings of the imprint."""

    bins: int = Field(default=512, ge=2, description="number k of bins, which are the units of the imprint layer")
    variant: Literal["dense", "sparse"] = Field(
        default="dense", description="dense: cumulative bins, read by differences; sparse: a ramp per bin"
    )
    measurement: Literal["mean", "dct"] = Field(
        default="mean", description="h: mean of all entries, or their first cosine mode from top to bottom"
    )
    distribution: Literal["normal", "laplace"] = Field(
        default="normal",
        description="distribution that gives the bin edges as quantiles, after standardising on the test set",
    )
    gain: float = Field(
        default=1000.0,
        gt=0,
        description="factor on the imprint's gradient: rows and biases are divided by it, the map back is multiplied",
    )
    range_tolerance: float = Field(
        default=0.05, ge=0, description="how far pixels may leave [0, 1] before a guess is dropped as a mixture"
    )


class _Imprint(nn.Sequential):
    """The block that the malicious server inserts in front of the model."""


@final
@attack(
    "robbing-the-fed",
    summary="malicious server: an imprint layer sorts a batch into bins",
    tier="baseline",
    paper="2110.13057",
    fidelity="reproduction",
    paper_steps=(
        ("imprint layer with ascending biases in front of the model", "_block"),
        ("measurement: mean of the pixels or a cosine mode", "_direction"),
        ("biases at quantiles of the measurement", "_quantiles"),
        ("examples from differences of neighbouring rows", "attacks.malicious_server._imprint.differences"),
        ("sparse variant, for several local steps", "RobbingTheFed.search"),
    ),
)
class RobbingTheFed(CraftedUnitsAttack[RobbingTheFedConfig]):
    """Recovers examples from differences of neighbouring rows of a layer that the server inserted."""

    def craft(self, model: nn.Module, spec: InputSpec, public: Tensor, generator: torch.Generator) -> nn.Module:
        """Return the model with the block in front of it.

        Raises:
            NotApplicable: the server has no examples to standardise the measurement, or all have the same measurement.
        """
        check_public(public)
        direction = _direction(self.config.measurement, spec.shape)
        values = public.flatten(1).double() @ direction
        centre, spread = values.mean(), values.std()
        if not spread > _CONSTANT * centre.abs():
            raise NotApplicable("the measurement is the same for all examples of the test set")
        edges = centre / spread + _quantiles(self.config.distribution, self.config.bins)
        block = _block(self.config, direction / spread, edges, spec.shape, generator)
        return nn.Sequential(block.to(next(model.parameters()).dtype), model)

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse honest models, a hidden imprint layer, and several steps in the dense variant."""
        reason = explain_missing_imprint(observation, _Imprint, _LAYER)
        if reason is not None:
            return reason
        if observation.local_steps > 1 and self.config.variant == "dense":
            return (
                f"the update holds {observation.local_steps} local steps, after which neighbouring rows no longer hold "
                "the same examples; variant 'sparse' needs no differences"
            )
        return None

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Compute the example of every bin, and drop mixtures."""
        sent = observation.update.tensors[f"{_LAYER}.weight"]
        weight, bias = sent.double(), observation.update.tensors[f"{_LAYER}.bias"].double()
        if self.config.variant == "dense":
            weight, bias = differences(weight), differences(bias)
        hit = exceeds_rounding(bias, sent.dtype).nonzero().flatten()
        rows = weight[hit] / bias[hit, None]
        examples = rows.view(-1, *observation.spec.shape)
        plausible = self._is_in_own_bin(observation, rows, hit)
        plausible &= is_in_pixel_range(examples, observation, self.config.range_tolerance)
        singles = Singles(examples, hit, bias[hit]).select(plausible.nonzero().flatten())
        singles = singles.select(singles.coefficients.abs().argsort(descending=True, stable=True))
        size, bins = expected_examples(observation), self.config.bins
        diagnostics = {"bins hit": float(len(hit)), "mixtures dropped": float((~plausible).sum())}
        if size is not None:
            diagnostics["singly occupied bins expected"] = size * (1 - 1 / bins) ** (size - 1)
        notes = (f"imprint of {bins} {self.config.variant} bins in front of the model",)
        guess = reconstruction(observation, _LAYER, singles, on_step, diagnostics=diagnostics, notes=notes)
        return replace(guess, is_exact=len(singles.examples) == size and inexact(observation) is None)

    def _is_in_own_bin(self, observation: Observation, rows: Tensor, hit: Tensor) -> Tensor:
        """Return the mask of rows (G, n) that the imprint layer sorts into their own bins, shape (G,)."""
        weight, bias = linear(observation.model, _LAYER)
        place = (rows * weight[hit]).sum(1) + bias[hit]  # dense: above the lower edge; sparse: in units of the bin
        if self.config.variant == "sparse":
            place = place * self.config.gain
            return (place > -SLACK) & (place < 1 + SLACK)
        return is_in_bins(place, bias, hit)


def _direction(measurement: str, shape: tuple[int, ...]) -> Tensor:
    """Return h, shape (n,), float64."""
    if measurement == "mean":
        return torch.full((math.prod(shape),), 1.0 / math.prod(shape), dtype=torch.float64)
    *_, rows, columns = (1, *shape)
    is_image = len(shape) > 1
    count = rows if is_image else columns
    mode = torch.cos(math.pi * (torch.arange(count, dtype=torch.float64) + 0.5) / count)
    return (mode[:, None] if is_image else mode).expand(shape).flatten() / math.prod(shape)


def _quantiles(distribution: str, bins: int) -> Tensor:
    """Return the k + 1 edges of k equally likely bins of a distribution of mean 0 and variance 1, without its tails."""
    shares = torch.linspace(0, 1, bins + 1, dtype=torch.float64).clamp(_TAIL, 1 - _TAIL)
    if distribution == "normal":
        return torch.special.ndtri(shares)
    tails = (2 * torch.minimum(shares, 1 - shares)).log() / math.sqrt(2)
    return torch.where(shares < 0.5, tails, -tails)  # noqa: PLR2004 - the median


def _block(
    config: RobbingTheFedConfig,
    direction: Tensor,
    edges: Tensor,
    shape: tuple[int, ...],
    generator: torch.Generator,
) -> _Imprint:
    """Build the block; its output is a random vector times about the share of bins below the example."""
    bins, entries = len(edges) - 1, len(direction)
    widths = config.gain * (edges.diff() if config.variant == "sparse" else torch.ones(bins, dtype=torch.float64))
    measure, spread = nn.Linear(entries, bins), nn.Linear(bins, entries, bias=False)
    column = torch.randn(entries, 1, generator=generator, dtype=torch.float64) * (config.gain / bins)
    with torch.no_grad():
        measure.weight.copy_(direction / widths[:, None])
        measure.bias.copy_(-edges[:-1] / widths)
        spread.weight.copy_(column.expand(entries, bins))
    ramp = nn.ReLU() if config.variant == "dense" else nn.Hardtanh(0.0, 1.0 / config.gain)
    return _Imprint(nn.Flatten(), measure, ramp, spread, nn.Unflatten(1, shape))
