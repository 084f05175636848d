"""certified-bins: insert an imprint layer with every bin twice, and certify which examples were alone in theirs.

Idea: two units of one bin lo_i < <h, x> < hi_i have different random weights v_1, v_2 behind them. If one example is
    in the bin, both gradients hold it; a mixture is weighted otherwise in each, and the two quotients differ.
Equation: with u_j = dL_j/d(block), dW_i,t = sum_j <v_t, u_j> x_j and db_i,t = sum_j <v_t, u_j>; certified if
    dW_i,1 / db_i,1 = dW_i,2 / db_i,2 up to the rounding of both, which must be small, and the quotient lies in its bin.
Assumes: malicious server that inserts a layer, with own examples to place bins. No labels, batch size or masks needed.
Recovers: exact examples with a certificate, at any dropout rate behind the block, after several local steps too.
Fails: examples that share a bin; noise and rounding on the wire, which leave nothing certified. A mixture is certified
    wrongly if its u_j are parallel up to rounding, or if a defense cuts both units' rows alike.
Source: inspired by VGIA, arXiv 2604.15063, of which the abstract was read; layer and certificate are this project's.
    Bins: Fowl et al. 2022, arXiv 2110.13057.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor, nn

from attacks.core.defense_facts import inexact
from attacks.malicious_server._imprint import SLACK, check_public, without_imprint
from attacks.malicious_server._isolated_units import (
    Singles,
    above_rounding,
    expected_examples,
    linear,
    reconstruction,
)
from attacks.malicious_server.base import CraftedUnitsAttack
from fedsim.core.errors import NotApplicable
from fedsim.core.registry import attack
from fedsim.core.types import Config, InputSpec, Observation, OnStep, Reconstruction

_LAYER = "0.measure"  # the imprint layer in the model that clients get
_CONSTANT = 1e-9
_NARROWEST = 1e-6  # width of a bin relative to the spread of the measurement, where the server's examples repeat
_ROUNDING = 32.0  # machine epsilons in an entry of a gradient, which is a sum over a batch
_RESOLVED = 1e-3  # largest rounding of a quotient relative to it; a mixture of less is the example to the eye


class CertifiedBinsConfig(Config):
    """Settings of the attack."""

    bins: int = Field(default=512, ge=2, description="number k of bins; the imprint layer has 2 k units")
    gain: float = Field(
        default=1e5,
        gt=0,
        description="factor on the imprint's gradient; the larger, the less is rounded, and the farther a local step "
        "moves a unit away from its bin once an example has entered",
    )
    uncertified: bool = Field(
        default=False, description="whether guesses without a certificate are returned too, behind those with one"
    )


class _TwinImprint(nn.Module):
    """The block that the malicious server puts in front of the model.

    It adds to the example: if it took its place, the model would see one number, and examples of one bin would have
    nearly the same gradient behind the block, which no certificate could tell apart.
    """

    def __init__(self, measure: nn.Linear, ramp: nn.Module, spread: nn.Linear) -> None:
        """Take the imprint layer, its activation and the map back."""
        super().__init__()
        self.measure, self.ramp, self.spread = measure, ramp, spread

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the examples, and what their bins add."""
        return inputs + self.spread(self.ramp(self.measure(inputs.flatten(1)))).view_as(inputs)


class Quotients(NamedTuple):
    """What the bins show.

    Attributes:
        bins: those with a gradient, shape (G,).
        rows: the quotient of each, of the unit with the larger gradient, shape (G, n), float64.
        units: that unit, shape (G,).
        coefficients: its bias gradient, shape (G,).
        is_certified: whether exactly one example explains both units of the bin, shape (G,).
    """

    bins: Tensor
    rows: Tensor
    units: Tensor
    coefficients: Tensor
    is_certified: Tensor


@final
@attack(
    "certified-bins",
    summary="malicious server: an imprint layer whose exact guesses are certified",
    paper="2604.15063",
    fidelity="inspired",
    deviates="only the abstract was read; layer and certificate are this project's",
)
class CertifiedBins(CraftedUnitsAttack[CertifiedBinsConfig]):
    """Reads examples off twin units that the server inserted, and says of which it is certain."""

    def craft(self, model: nn.Module, spec: InputSpec, public: Tensor, generator: torch.Generator) -> nn.Module:
        """Return the model with the block in front of it.

        Raises:
            NotApplicable: the server has no examples to place its bins by.
        """
        check_public(public)
        values = public.flatten(1).double().mean(1)
        if not values.std() > _CONSTANT * values.mean().abs():
            raise NotApplicable("the mean entry is the same for all examples of the test set")
        block = _block(self.config, _edges(values, self.config.bins), math.prod(spec.shape), generator)
        return nn.Sequential(block.to(next(model.parameters()).dtype), model)

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse honest models, and a hidden imprint layer."""
        return without_imprint(observation, _TwinImprint, _LAYER)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Read every bin, and return what is certified."""
        ratios = quotients(observation, self.config.gain)
        certified = int(ratios.is_certified.sum())
        order = ratios.is_certified.int().argsort(descending=True, stable=True)
        order = order if self.config.uncertified else order[:certified]
        examples = ratios.rows.view(-1, *observation.spec.shape)
        singles = Singles(examples, ratios.units, ratios.coefficients).chosen(order)
        size = expected_examples(observation)
        note = f"the first {certified} of the guesses are certified" if self.config.uncertified else "all are certified"
        facts = {"bins hit": float(len(ratios.bins)), "certified": float(certified)}
        notes = (f"imprint of {self.config.bins} twin bins in front of the model", note)
        guess = reconstruction(observation, _LAYER, singles, on_step, facts=facts, notes=notes)
        return replace(guess, is_exact=certified == size and inexact(observation) is None)


def quotients(observation: Observation, gain: float) -> Quotients:
    """Read every bin that has a gradient, and compare its two units."""
    sent, bias = (observation.update.tensors[f"{_LAYER}.{part}"] for part in ("weight", "bias"))
    rows, parts = sent.double().unflatten(0, (2, -1)), bias.double().unflatten(0, (2, -1))
    hit = above_rounding(bias, sent.dtype).unflatten(0, (2, -1)).all(0).nonzero().flatten()
    rows, parts = rows[:, hit], parts[:, hit]
    guesses = rows / parts[..., None]
    size = guesses.abs().amax(2)
    weight_error, bias_error = (part.unflatten(0, (2, -1))[:, hit] for part in _rounding(observation, sent, bias))
    errors = ((weight_error + size * bias_error) / parts.abs()).sum(0)
    is_alike = (guesses[0] - guesses[1]).abs().amax(1) <= errors
    larger = parts.abs().argmax(0)
    places = torch.arange(len(hit))
    chosen, units = guesses[larger, places], hit + larger * (len(bias) // 2)
    is_certified = is_alike & (errors <= _RESOLVED * size.amin(0)) & _in_bin(observation, chosen, hit, gain)
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


def _in_bin(observation: Observation, rows: Tensor, bins: Tensor, gain: float) -> Tensor:
    """Return which quotients (G, n) lie in the bins from which they were read, shape (G,)."""
    weight, bias = linear(observation.model, _LAYER)
    place = gain * ((rows * weight[bins]).sum(1) + bias[bins])
    return (place > -SLACK) & (place < 1 + SLACK)


def _edges(values: Tensor, bins: int) -> Tensor:
    """Return the k + 1 edges of equally likely bins; the outer two reach as far again as the server's examples."""
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
