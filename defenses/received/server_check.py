"""server-check: checks the received weights before training, and refuses weights crafted to separate examples.

Idea: weights that isolate examples have rows that are parallel, share signs or sums, or activate for one example.
Equation: signals of a layer's rows w_r, biases b_r: |cos(w_r, w_s)|, the top eigenvalue of their Gram matrix,
    the spread of sum(w_r) / ||w_r|| and of signs, |b_r| / ||w_r||, order of b_r, norms, units active for one example.
Assumes: a client that may refuse to send; for `isolation` a batch of at least 8 of its own examples. Malicious servers
    only.
Protects: against servers that do not know it, before anything is sent; no guarantee.
Fails: against a server that stays within the bounds; honest models beyond them are refused. The server sees a client's
    refusal, which through `isolation` depends on the client's data.
Source: own signals; the idea of client-side detection as in arXiv 2511.10502 and arXiv 2506.20651.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor, nn

from defenses.core.inside import outputs_of
from fedsim.core.errors import ClientRefusal
from fedsim.core.hooks import ANYTHING, Defense, Distortion, HookContext, LocalStep, Place, PublicFederation
from fedsim.core.nets.layer_calls import layer_outputs
from fedsim.core.registry import defense
from fedsim.core.types import Config, MethodDescription, Modality, Tensors

_FEWEST_ROWS, _FEWEST_COLUMNS = 16, 32  # statistics of smaller layers are too noisy
_FEWEST_FOR_SPREAD = 32  # rows: the standard error of a spread is then an eighth of it
_MOST_ROWS = 1024  # sampled rows of a layer: the time grows with their square
_ALIVE = 3  # nonzero entries: sparser rows of a pruned model are parallel by chance
_FEWEST_EXAMPLES = 8  # in smaller batches most units of honest models are active for a single example
_MOST_SHOWN = 3  # findings in a refusal


class ServerCheckConfig(Config):
    """Settings of the check: a bound for each signal."""

    cosine: float = Field(default=0.95, gt=0, lt=1, description="|cosine| from which two rows count as parallel")
    parallel: int = Field(default=2, ge=0, description="largest number of parallel rows in a layer")
    energy: float = Field(default=0.5, gt=0, le=1, description="largest share of the rows' energy in one direction")
    regularity: float = Field(
        default=0.3,
        ge=0,
        description="least spread over rows of their signs and sums, 1 for entries that are independent",
    )
    bias: float = Field(default=0.5, gt=0, description="largest median of |bias| relative to the row's norm")
    order: float = Field(default=0.9, gt=0, le=1, description="largest |rank correlation| of biases with their places")
    norms: float = Field(default=20.0, gt=1, description="largest row norm of a layer relative to their median")
    dead: float = Field(default=0.5, gt=0, le=1, description="largest share of rows with fewer than 3 entries")
    isolation: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="largest share of a linear layer's units that only a single own example activates",
    )


class BoundedFigure(NamedTuple):
    """A signal of a layer, and its bound.

    Attributes:
        is_beyond: whether the signal violates the bound.
    """

    layer: str
    signal: str
    value: float
    bound: float
    is_beyond: bool


@final
@defense("server-check", summary="refuses received weights that look crafted", tier="core", related="2511.10502")
class ServerCheck(Defense[ServerCheckConfig]):
    """Refuses to train on weights that seem crafted to separate examples."""

    place: ClassVar[Place] = "received"
    modalities: ClassVar[frozenset[Modality]] = ANYTHING

    def on_received(self, received: Tensors, context: HookContext) -> None:
        """Refuse if a signal violates its bound; without a batch, as in a mod, only the weights are checked.

        Raises:
            ClientRefusal: a signal violates its bound.
        """
        flagged = [finding for finding in self.findings(received, context) if finding.is_beyond]
        if flagged:
            reasons = "; ".join(
                f"'{finding.layer}': {finding.signal} {finding.value:.3g}, bound {finding.bound:g}"
                for finding in flagged[:_MOST_SHOWN]
            )
            raise ClientRefusal(f"the weights look crafted: {reasons}")

    def findings(self, received: Tensors, context: HookContext) -> Iterator[BoundedFigure]:
        """Yield every signal of every sufficiently large layer."""
        for name, weights in received.items():
            if not torch.isfinite(weights).all():
                yield BoundedFigure(name, "entries that are not finite", 1.0, 0.0, is_beyond=True)
            elif _is_layer(weights):
                bias = received.get(f"{name.removesuffix('weight')}bias") if name.endswith("weight") else None
                yield from self._check_layer(name, *_sample_rows(weights, bias, context.generator))
        if context.local is not None:
            yield from self._check_batch(context.local)

    def _check_layer(self, name: str, rows: Tensor, bias: Tensor | None) -> Iterator[BoundedFigure]:
        highest, least = _highest(name), _lowest(name)
        entries = (rows != 0).sum(1)
        is_alive = entries >= _ALIVE
        if not is_alive.any():  # zeros are a common initialisation
            return
        yield highest("share of dead rows", float((~is_alive).double().mean()), self.config.dead)
        rows, entries = rows[is_alive], entries[is_alive]
        if len(rows) < _FEWEST_ROWS:
            return
        norms = rows.norm(dim=1)
        units = rows / norms[:, None]
        gram = units @ units.T
        yield highest("energy in one direction", float(torch.linalg.eigvalsh(gram)[-1]) / len(rows), self.config.energy)
        is_near = gram.fill_diagonal_(0).abs().amax(1) > self.config.cosine
        yield highest("parallel rows", float(is_near.sum()), self.config.parallel)
        yield highest("largest row norm over the median", float(norms.max() / norms.median()), self.config.norms)
        if len(rows) >= _FEWEST_FOR_SPREAD:
            excess = ((rows > 0).sum(1) - (rows < 0).sum(1)) / entries.sqrt()
            yield least("spread of signs", float(excess.std()), self.config.regularity)
            yield least("spread of sums", float(units.sum(1).std()), self.config.regularity)
        if bias is not None:
            yield from self._check_bias(name, bias[is_alive], norms)

    def _check_bias(self, name: str, bias: Tensor, norms: Tensor) -> Iterator[BoundedFigure]:
        highest = _highest(name)
        yield highest("median bias over the row norm", float((bias.abs() / norms).median()), self.config.bias)
        if len(bias) >= _FEWEST_FOR_SPREAD and len(bias.unique()) == len(bias):
            ranks = torch.stack([bias.argsort().argsort(), torch.arange(len(bias))]).double()
            yield highest("order of biases", float(torch.corrcoef(ranks)[0, 1].abs()), self.config.order)

    def _check_batch(self, local: LocalStep) -> Iterator[BoundedFigure]:
        """Yield the share of units of each linear layer that a single example of the batch activates."""
        inputs = local.batch.inputs
        if len(inputs) < _FEWEST_EXAMPLES or not inputs.is_floating_point() or local.batch.extra_inputs:
            return
        modules = local.model.named_modules()
        names = [name for name, module in modules if isinstance(module, nn.Linear) and _is_layer(module.weight)]
        with torch.enable_grad(), layer_outputs(local.model, names) as seen:
            outputs = outputs_of(local, inputs)
        read = [(name, output) for name, output in seen if output.dim() == 2 and output.requires_grad]  # noqa: PLR2004 - (B, units)
        if not read:
            return
        # A generic function of the outputs has a nonzero gradient at a unit if and only if the unit is active.
        slopes = torch.autograd.grad(outputs.double().sin().sum(), [output for _, output in read], allow_unused=True)
        for (name, _), slope in zip(read, slopes, strict=True):
            if slope is not None:
                share_single = ((slope != 0).sum(0) == 1).double().mean()
                yield _highest(name)(
                    "share of units that one example activates", float(share_single), self.config.isolation
                )

    def describe_distortion(self, federation: PublicFederation, sent: Tensors) -> Distortion:
        """Return no distortion: the update is not changed."""
        return Distortion()

    def adaptive_view(self) -> MethodDescription:
        """Return the bounds."""
        return MethodDescription("server-check", settings=self.config.model_dump())


def _highest(layer: str) -> _Judge:
    return _Judge(layer, 1)


def _lowest(layer: str) -> _Judge:
    return _Judge(layer, -1)


class _Judge(NamedTuple):
    """Compares a layer's signals with an upper bound (sign 1) or a lower bound (sign -1)."""

    layer: str
    sign: int

    def __call__(self, signal: str, value: float, bound: float) -> BoundedFigure:
        return BoundedFigure(self.layer, signal, value, bound, self.sign * value > self.sign * bound)


def _is_layer(weights: Tensor) -> bool:
    is_matrix = weights.is_floating_point() and weights.dim() > 1
    return is_matrix and weights.shape[0] >= _FEWEST_ROWS and weights[0].numel() >= _FEWEST_COLUMNS


def _sample_rows(weights: Tensor, bias: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """Return rows of a layer and their biases in float64: all, or a random sample that the server cannot predict."""
    rows = weights.detach().flatten(1).double()
    chosen = torch.randperm(len(rows), generator=generator)[:_MOST_ROWS].sort().values
    has_bias = bias is not None and bias.shape == weights.shape[:1]
    return rows[chosen], bias.detach().double()[chosen] if bias is not None and has_bias else None
