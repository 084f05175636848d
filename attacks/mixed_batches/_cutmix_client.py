"""CutMix in a simulated client: composites of dummy inputs or feature maps, with known or unknown boxes and partners.

In a step on n dummy inputs x with labels y, c_j = (1 - m_j) x_j + m_j sum_k A_jk x_k and t_j = l_j y_j + (1 - l_j)
sum_k A_jk y_k, l_j = 1 - mean m_j. Drawn boxes and partners belong to batch positions, and the position of each dummy
input is unknown: an order O transforms their m and P to O m and O P O^T. An unknown box has edges between pixels, and m
is the covered share of a pixel. Partners and orders are soft permutations: scaled logits made doubly stochastic. Under
Feature CutMix, x are the feature maps after a layer of the simulated model, and dummy inputs enter the model unmixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.core.matching.simulated_client import SimulatedClient
from attacks.core.matching.unknowns import Block, Bounded, Logits, Unknowns, Values
from attacks.local_steps._unrolled import SimulatedStep, UnrolledComparison
from fedsim.core.types import Masks, Observation, Tensors
from fedsim.metrics.boxes import CutMixRecord, inside

ORDER, BOXES, PARTNERS, SHARES = "order", "boxes", "partners", "label shares"  # names of blocks
_COLDEST = 0.1  # temperature of soft permutations at the end of a search; it starts at 1
_BALANCING = 8
_SURE = 8.0


class Pasting(Protocol):
    """The unknown boxes and partners of one step."""

    def unknowns(self) -> tuple[Block, ...]:
        """Return the blocks of unknowns of one step."""
        ...

    def composites(self, values: Values, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the composites of dummies (n, C, H, W) and their labels, probabilities (n, K); differentiable."""
        ...


class BoxPasting(Pasting, Protocol):
    """The unknowns of a step that pastes boxes, of images or of feature maps."""

    def mixture(self, values: Values) -> Mixture:
        """Return the pasted regions of each dummy input, and its partners."""
        ...


class Mixture(NamedTuple):
    """The pasting of a batch.

    Attributes:
        regions: m, pasted share of each pixel, shape (n, H, W).
        partners: A, weights of the partners, rows that sum to 1, shape (n, n).
    """

    regions: Tensor
    partners: Tensor

    def of(self, inputs: Tensor) -> Tensor:
        """Return the composites of images or maps (n, C, H, W)."""
        partners = (self.partners @ inputs.flatten(1)).view_as(inputs)
        return torch.lerp(inputs, partners, self.regions[:, None])

    def mix_labels(self, labels: Tensor) -> Tensor:
        """Return the labels of the composites, mixed probabilities (n, K)."""
        return torch.lerp(self.partners @ labels, labels, 1.0 - self.regions.mean((1, 2))[:, None])


class GrantedPasting:
    """Known boxes and partners; the order of the dummy inputs is searched."""

    def __init__(self, pasted: CutMixRecord, height: int, width: int) -> None:
        """Store the drawn partners and boxes."""
        assert pasted.partners is not None
        assert pasted.boxes is not None
        self._regions = inside(pasted.boxes, height, width).float()
        self._partners = torch.eye(len(pasted.partners))[pasted.partners]

    def unknowns(self) -> tuple[Block, ...]:
        """Return logits of the order, divided by a temperature that falls from 1 to 0.1."""
        return (Logits(ORDER, shape=tuple(self._partners.shape), coldest=_COLDEST),)

    def composites(self, values: Values, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Paste in the order of the dummy inputs."""
        mixture = self.mixture(values)
        return mixture.of(inputs), mixture.mix_labels(labels)

    def mixture(self, values: Values) -> Mixture:
        """Return boxes and partners in the order of the dummy inputs."""
        order = balance(values[ORDER][0])
        regions = (order @ self._regions.to(order).flatten(1)).view_as(self._regions)
        return Mixture(regions, order @ self._partners.to(order) @ order.T)


class SearchedPasting:
    """Unknown partners and unknown box edges, as shares of height and width; a common box or a box per dummy."""

    def __init__(self, examples: int, height: int, width: int, boxes: int) -> None:
        """Set up the unknowns for a number of dummy inputs, an image size, and a number of boxes."""
        self._examples, self._size = examples, (height, width)
        self._blocks: tuple[Block, ...] = (
            Boxes(BOXES, count=boxes),
            Logits(PARTNERS, shape=(examples, examples), coldest=_COLDEST),
        )

    def starting_at(self, box: Tensor, partners: Tensor) -> SearchedPasting:
        """Return the same unknowns, started from one box (4,), in pixels, and from these partners (n,)."""
        height, width = self._size
        start = SearchedPasting(self._examples, height, width, 1)
        edges = box[None] / torch.tensor([height, height, width, width])
        sure = _SURE * F.one_hot(partners, self._examples).float()
        start._blocks = Unknowns(start._blocks).starting_at({BOXES: (edges,), PARTNERS: (sure,)}).blocks
        return start

    def unknowns(self) -> tuple[Block, ...]:
        """Return the boxes, and logits of the partners divided by a temperature that falls from 1 to 0.1."""
        return self._blocks

    def composites(self, values: Values, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Paste the area that each box covers."""
        mixture = self.mixture(values)
        return mixture.of(inputs), mixture.mix_labels(labels)

    def mixture(self, values: Values) -> Mixture:
        """Return the area that each box covers, and partners as a soft permutation."""
        (edges,), (logits,) = values[BOXES], values[PARTNERS]
        return Mixture(compute_coverage(edges, self._size).expand(self._examples, -1, -1), balance(logits))


class SharedLabels:
    """Dummy inputs are the composites themselves; the shares of the labels in each composite are searched."""

    def __init__(self, examples: int, has_one_box: bool) -> None:
        """Store the number of dummy inputs; with one box for all, the shares of every label sum to 1."""
        self._examples, self._has_one_box = examples, has_one_box

    def unknowns(self) -> tuple[Block, ...]:
        """Return logits of the shares, shape (n, n), at a constant temperature."""
        return (Logits(SHARES, shape=(self._examples, self._examples)),)

    def composites(self, values: Values, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs unchanged, and mixed labels."""
        (logits,) = values[SHARES]
        shares = balance(logits) if self._has_one_box else logits.softmax(1)
        return inputs, shares @ labels


@dataclass(frozen=True)
class Boxes(Bounded):
    """Edges of boxes in shares of height and width, shape (count, 4), drawn like CutMix's with uniform weights.

    Attributes:
        count: number of boxes.
    """

    count: int = 1

    def first(self, generator: torch.Generator) -> Masks:
        """Return the start, or a draw."""
        if self.start:
            return self.start
        sides = torch.rand(self.count, 1, generator=generator).sqrt()
        centres = torch.rand(self.count, 2, generator=generator)
        return (torch.stack([centres - sides / 2, centres + sides / 2], 2).flatten(1).clamp(0.0, 1.0),)


@dataclass(frozen=True)
class PastingStep(SimulatedStep):
    """A step on composites.

    Attributes:
        number: index of the step, from 0.
        pasting: the step's unknowns.
    """

    number: int = field(kw_only=True)
    pasting: Pasting = field(kw_only=True)

    def unknowns(self, rate: float) -> tuple[Block, ...]:
        """Return the blocks of the step's pasting, named after the step."""
        blocks = self.pasting.unknowns()
        return tuple(replace(block, name=_format_step_name(block.name, self.number), rate=rate) for block in blocks)

    def is_in(self, variables: Values) -> bool:
        """Return whether the values include this step's pasting."""
        return all(_format_step_name(block.name, self.number) in variables for block in self.pasting.unknowns())

    def values_of(self, variables: Values) -> Values:
        """Return the values of the step's pasting, under the names of its blocks."""
        names = (block.name for block in self.pasting.unknowns())
        return {name: variables[_format_step_name(name, self.number)] for name in names}


def _format_step_name(name: str, number: int) -> str:
    return f"{name} of step {number + 1}"


class PastedComparison(UnrolledComparison):
    """Simulates the steps of a client that trains on composites of the dummies; their labels are probabilities."""

    name = "unrolled, with composites"

    def _loss(
        self, step: SimulatedStep, inputs: Tensor, labels: Tensor, masks: Masks, weights: Tensors, variables: Values
    ) -> Tensor:
        if isinstance(step, PastingStep):
            inputs, labels = step.pasting.composites(step.values_of(variables), inputs, labels)
        return super()._loss(step, inputs, labels, masks, weights, variables)


class MapComparison(UnrolledComparison):
    """Simulates the steps of a client that pastes maps after a layer; labels of the dummy inputs are probabilities.

    Every step's pasting is a `BoxPasting`.
    """

    name = "unrolled, with pasted maps"

    def __init__(
        self, client: SimulatedClient, observation: Observation, steps: Sequence[PastingStep], place: str
    ) -> None:
        """Keep a reference to the layer `place` of the client's model."""
        super().__init__(client, [observation], steps, checkpointed=False)
        self._layer = client.model.get_submodule(place)

    def _loss(
        self, step: SimulatedStep, inputs: Tensor, labels: Tensor, masks: Masks, weights: Tensors, variables: Values
    ) -> Tensor:
        assert isinstance(step, PastingStep)
        mixture = cast("BoxPasting", step.pasting).mixture(step.values_of(variables))
        with paste_behind(self._layer, mixture):
            return super()._loss(step, inputs, mixture.mix_labels(labels), masks, weights, variables)


@contextmanager
def paste_behind(layer: nn.Module, mixture: Mixture) -> Iterator[None]:
    """Paste the outputs of a layer in every forward pass inside the context."""

    def paste(_layer: nn.Module, _inputs: object, maps: Tensor) -> Tensor:
        return mixture.of(maps)

    handle = layer.register_forward_hook(paste)
    try:
        yield
    finally:
        handle.remove()


def compute_coverage(edges: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the share of every pixel that each box covers, shape (N, H, W), in [0, 1].

    Args:
        edges: first and last row, first and last column, in shares of height and width, shape (N, 4).
        size: height and width.
    """
    sides: list[Tensor] = []
    for pair, pixels in zip(edges.split(2, 1), size, strict=True):
        first, last = (pair * pixels).split(1, 1)
        starts = torch.arange(pixels).to(edges)
        sides.append((torch.minimum(last, starts + 1.0) - torch.maximum(first, starts)).clamp_min(0.0))
    return sides[0][:, :, None] * sides[1][:, None, :]


def balance(logits: Tensor) -> Tensor:
    """Return a soft permutation (n, n): rows and columns of exp(logits) scaled in turn to sum to 1 (Sinkhorn)."""
    for _ in range(_BALANCING):
        logits = F.log_softmax(F.log_softmax(logits, 0), 1)
    return logits.exp()
