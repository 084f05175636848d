"""certified-bins: insert an imprint layer with every bin twice, and certify the examples that are alone in their bin.

Idea: two units of a bin lo_i < <h, x> < hi_i have different random output weights v_1, v_2. If a single example is in
    the bin, both gradients hold it; a mixture has different weights in each, and the two quotients differ.
Equation: with u_j = dL_j/d(block), dW_i,t = sum_j <v_t, u_j> x_j and db_i,t = sum_j <v_t, u_j>; certified if dW_i,1 /
    db_i,1 = dW_i,2 / db_i,2 up to the rounding of both, which must be small, and the quotient lies in its bin.
Assumes: malicious server that inserts a layer, with own examples to set the bins. No labels, batch size or masks
    needed.
Recovers: exact examples with a certificate, at any dropout rate after the block, after several local steps too.
Fails: examples that share a bin; noise and rounding of the sent update, which prevent any certificate. A mixture is
    certified wrongly if its u_j are parallel up to rounding, or if a defense changes both units' rows equally.
Source: inspired by VGIA, arXiv 2604.15063, of which the abstract was read; layer and certificate are this project's.
    Bins: Fowl et al. 2022, arXiv 2110.13057.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor, nn

from attacks.core.defense_facts import inexact
from attacks.malicious_server._imprint import SLACK, check_public, explain_missing_imprint
from attacks.malicious_server._isolated_units import (
    Singles,
    exceeds_rounding,
    expected_examples,
    linear,
    reconstruction,
)
from attacks.malicious_server.base import CraftedUnitsAttack
from fedsim.core.errors import NotApplicable
from fedsim.core.registry import attack
from fedsim.core.types import Config, InputSpec, Observation, OnStep, Reconstruction

_LAYER = "0.measure"  # the imprint layer in the clients' model
_CONSTANT = 1e-9
_NARROWEST = 1e-6  # width of a bin relative to the spread of the measurement, where the server's examples repeat
_ROUNDING = 32.0  # machine epsilons in an entry of a gradient, which is a sum over a batch
_RESOLVED = 1e-3  # largest relative rounding of a quotient; a smaller mixture is visually identical to the example


class CertifiedBinsConfig(Config):
    """Settings of certified-bins."""

    bins: int = Field(default=512, ge=2, description="number k of bins; the imprint layer has 2 k units")
    gain: float = Field(
        default=1e5,
        gt=0,
        description="factor on the imprint's gradient; the larger, the less is rounded, and the farther a local step "
        "moves a unit away from its bin once an example has entered",
    )
    uncertified: bool = Field(
        default=False, description="also return guesses without a certificate, after the certified guesses"
    )


class _TwinImprint(nn.Module):
    """The block that the malicious server inserts in front of the model.

    Its output is added to the example. If it replaced the example, the model would read a single number, and examples
    of the same bin would have nearly the same gradient at the block, which no certificate could distinguish.
    """

    def __init__(self, measure: nn.Linear, ramp: nn.Module, spread: nn.Linear) -> None:
        super().__init__()
        self.measure, self.ramp, self.spread = measure, ramp, spread

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.spread(self.ramp(self.measure(inputs.flatten(1)))).view_as(inputs)


class Quotients(NamedTuple):
    """Quotients of all bins with a gradient.

    Attributes:
        bins: indices of the bins with a gradient, shape (G,).
        rows: quotient of the unit with the larger gradient in each bin, shape (G, n), float64.
        units: index of that unit, shape (G,).
        coefficients: its bias gradient, shape (G,).
        is_certified: whether a single example explains both units of the bin, shape (G,).
    """

    bins: Tensor
    rows: Tensor
    units: Tensor
    coefficients: Tensor
    is_certified: Tensor


@final
@attack(
    "certified-bins",
    summary="malicious server: an imprint layer with a certificate for each exact guess",
    tier="core",
    paper="2604.15063",
    fidelity="inspired",
    deviates="only the abstract was read; layer and certificate are this project's",
)
class CertifiedBins(CraftedUnitsAttack[CertifiedBinsConfig]):
    """Recovers examples from twin units that the server inserted, and certifies them."""

    chance: ClassVar[float] = 0.9

    def craft(self, model: nn.Module, spec: InputSpec, public: Tensor, generator: torch.Generator) -> nn.Module:
        """Return the model with the block in front of it.

        Raises:
            NotApplicable: the server has no examples to set its bins, or their mean entries are all equal.
        """
        check_public(public)
        values = public.flatten(1).double().mean(1)
        if not values.std() > _CONSTANT * values.mean().abs():
            raise NotApplicable("the mean entry is the same for all examples of the test set")
        block = _block(self.config, _edges(values, self.config.bins), math.prod(spec.shape), generator)
        return nn.Sequential(block.to(next(model.parameters()).dtype), model)

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse honest models, and a hidden imprint layer."""
        return explain_missing_imprint(observation, _TwinImprint, _LAYER)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Compute the quotients of all bins, and return the certified examples."""
        ratios = quotients(observation, self.config.gain)
        certified = int(ratios.is_certified.sum())
        order = ratios.is_certified.int().argsort(descending=True, stable=True)
        order = order if self.config.uncertified else order[:certified]
        examples = ratios.rows.view(-1, *observation.spec.shape)
        singles = Singles(examples, ratios.units, ratios.coefficients).select(order)
        size = expected_examples(observation)
        note = f"the first {certified} of the guesses are certified" if self.config.uncertified else "all are certified"
        diagnostics = {"bins hit": float(len(ratios.bins)), "certified": float(certified)}
        notes = (f"imprint of {self.config.bins} twin bins in front of the model", note)
        guess = reconstruction(observation, _LAYER, singles, on_step, diagnostics=diagnostics, notes=notes)
        return replace(guess, is_exact=certified == size and inexact(observation) is None)


def quotients(observation: Observation, gain: float) -> Quotients:
    """Compute the quotients of every bin with a gradient, and compare its two units."""
    sent, bias = (observation.update.tensors[f"{_LAYER}.{part}"] for part in ("weight", "bias"))
    rows, parts = sent.double().unflatten(0, (2, -1)), bias.double().unflatten(0, (2, -1))
    hit = exceeds_rounding(bias, sent.dtype).unflatten(0, (2, -1)).all(0).nonzero().flatten()
    rows, parts = rows[:, hit], parts[:, hit]
    guesses = rows / parts[..., None]
    size = guesses.abs().amax(2)
    weight_error, bias_error = (part.unflatten(0, (2, -1))[:, hit] for part in _rounding(observation, sent, bias))
    errors = ((weight_error + size * bias_error) / parts.abs()).sum(0)
    is_alike = (guesses[0] - guesses[1]).abs().amax(1) <= errors
    larger = parts.abs().argmax(0)
    places = torch.arange(len(hit))
    chosen, units = guesses[larger, places], hit + larger * (len(bias) // 2)
    is_certified = is_alike & (errors <= _RESOLVED * size.amin(0)) & _is_in_bin(observation, chosen, hit, gain)
    return Quotients(hit, chosen, units, parts[larger, places], is_certified)


def _rounding(observation: Observation, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest rounding of an entry of each unit's weight and bias gradient, shape (2 k,), float64."""
    sizes = [_ROUNDING * weight.double().abs().amax(1), _ROUNDING * bias.double().abs()]
    if observation.update.kind == "delta":  # every step rounds a weight by half an epsilon
        held, start = linear(observation.model, _LAYER)
        sizes[0] += observation.local_steps * held.abs().amax(1)
        sizes[1] += observation.local_steps * start.abs()
    unit = torch.finfo(weight.dtype).eps
    return unit * sizes[0], unit * sizes[1]


def _is_in_bin(observation: Observation, rows: Tensor, bins: Tensor, gain: float) -> Tensor:
    """Return the mask of quotients (G, n) that lie in their own bins, shape (G,)."""
    weight, bias = linear(observation.model, _LAYER)
    place = gain * ((rows * weight[bins]).sum(1) + bias[bins])
    return (place > -SLACK) & (place < 1 + SLACK)


def _edges(values: Tensor, bins: int) -> Tensor:
    """Return the k + 1 edges of equally likely bins; the outer edges extend by the range of the server's examples."""
    shares = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    edges = values.quantile(shares)
    reach = edges[-1] - edges[0]
    edges[0], edges[-1] = edges[0] - reach, edges[-1] + reach
    return edges


def _block(config: CertifiedBinsConfig, edges: Tensor, entries: int, generator: torch.Generator) -> _TwinImprint:
    bins = config.bins
    widths = config.gain * edges.diff().clamp_min(_NARROWEST * (edges[-1] - edges[0]))
    measure, spread = nn.Linear(entries, 2 * bins), nn.Linear(2 * bins, entries, bias=False)
    columns = torch.randn(entries, 2, generator=generator, dtype=torch.float64) * (config.gain / bins)
    with torch.no_grad():
        measure.weight.copy_((1 / (entries * widths))[:, None].expand(bins, entries).repeat(2, 1))
        measure.bias.copy_((-edges[:-1] / widths).repeat(2))
        spread.weight.copy_(columns.repeat_interleave(bins, 1))
    return _TwinImprint(measure, nn.Hardtanh(0.0, 1.0 / config.gain), spread)
