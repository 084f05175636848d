"""CutMix in a simulated client: composites of dummies, or of their maps, with known or unknown boxes and partners.

In a step on n dummies x with labels y, c_j = (1 - m_j) x_j + m_j sum_k A_jk x_k and t_j = l_j y_j + (1 - l_j)
sum_k A_jk y_k, l_j = 1 - mean m_j. Drawn boxes and partners belong to places of the batch, and the place of each dummy
is unknown: an order O takes their m and P to O m and O P O^T. An unknown box has edges between pixels, and m is the
covered share of a pixel. Partners and orders are soft permutations: scaled logits made doubly stochastic. Under Feature
CutMix x are the maps behind a layer of the simulated model, and dummies enter the model whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.gradient_matching._comparison import Setting
from attacks.gradient_matching._unknowns import Masking
from attacks.local_steps._unrolled import LocalStep, UnrolledComparison
from fedsim.core.boxes import Pasted, inside
from fedsim.core.types import Masks, Observation, Tensors

_HARDEST = 0.1  # temperature of soft permutations at the end of a search; it starts at 1
_BALANCING = 8
_SURE = 8.0


class Pasting(Protocol):
    """The unknowns of one step's boxes and partners."""

    def first(self, generator: torch.Generator) -> Masks:
        """Return start values of one row's unknowns."""
        ...

    def cooled(self, unknowns: Masks, done: float) -> Masks:
        """Return the unknowns, with logits divided by the temperature after this share of the search."""
        ...

    def composites(self, unknowns: Masks, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the composites of dummies (n, C, H, W) and their labels, probabilities (n, K); differentiable."""
        ...


class BoxPasting(Pasting, Protocol):
    """The unknowns of a step that pastes boxes, of images or of maps."""

    def mixture(self, unknowns: Masks) -> Mixture:
        """Return the pasted regions of each dummy, and its partners."""
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
        others = (self.partners @ inputs.flatten(1)).view_as(inputs)
        return torch.lerp(inputs, others, self.regions[:, None])

    def of_labels(self, labels: Tensor) -> Tensor:
        """Return the labels of the composites, mixed probabilities (n, K)."""
        return torch.lerp(self.partners @ labels, labels, 1.0 - self.regions.mean((1, 2))[:, None])


class GrantedPasting:
    """Boxes and partners are known; the order of the dummies is searched."""

    def __init__(self, pasted: Pasted, height: int, width: int) -> None:
        """Take the drawn partners and boxes."""
        assert pasted.partners is not None
        assert pasted.boxes is not None
        self._regions = inside(pasted.boxes, height, width).float()
        self._partners = torch.eye(len(pasted.partners))[pasted.partners]

    def first(self, generator: torch.Generator) -> Masks:
        """Return logits of the order."""
        return (torch.randn(self._partners.shape, generator=generator),)

    def cooled(self, unknowns: Masks, done: float) -> Masks:
        """Return the logits, divided by a temperature that falls from 1 to 0.1."""
        return (unknowns[0] / _HARDEST**done,)

    def composites(self, unknowns: Masks, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Paste in the order of the dummies."""
        mixture = self.mixture(unknowns)
        return mixture.of(inputs), mixture.of_labels(labels)

    def mixture(self, unknowns: Masks) -> Mixture:
        """Return boxes and partners in the order of the dummies."""
        order = balanced(unknowns[0])
        regions = (order @ self._regions.to(order).flatten(1)).view_as(self._regions)
        return Mixture(regions, order @ self._partners.to(order) @ order.T)


class SearchedPasting:
    """Unknown edges, as shares of height and width, of one box or of one per dummy; and unknown partners."""

    def __init__(self, examples: int, height: int, width: int, boxes: int) -> None:
        """Take the number of dummies, their size, and the number of boxes."""
        self._examples, self._size, self._boxes = examples, (height, width), boxes
        self._start: Masks | None = None

    def starting_at(self, box: Tensor, partners: Tensor) -> SearchedPasting:
        """Return the same, started from one box (4,), in pixels, and from these partners (n,)."""
        height, width = self._size
        other = SearchedPasting(self._examples, height, width, 1)
        edges = box[None] / torch.tensor([height, height, width, width])
        other._start = edges, _SURE * F.one_hot(partners, self._examples).float()
        return other

    def first(self, generator: torch.Generator) -> Masks:
        """Return boxes drawn by CutMix's law with uniform weights, shape (boxes, 4), and logits of the partners."""
        if self._start is not None:
            return self._start
        sides = torch.rand(self._boxes, 1, generator=generator).sqrt()
        centres = torch.rand(self._boxes, 2, generator=generator)
        edges = torch.stack([centres - sides / 2, centres + sides / 2], 2).flatten(1).clamp(0.0, 1.0)
        return edges, torch.randn(self._examples, self._examples, generator=generator)

    def cooled(self, unknowns: Masks, done: float) -> Masks:
        """Return the logits, divided by a temperature that falls from 1 to 0.1, and the edges unchanged."""
        return unknowns[0], unknowns[1] / _HARDEST**done

    def composites(self, unknowns: Masks, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Paste the regions of the boxes."""
        mixture = self.mixture(unknowns)
        return mixture.of(inputs), mixture.of_labels(labels)

    def mixture(self, unknowns: Masks) -> Mixture:
        """Return the regions of the boxes, and partners from a soft permutation."""
        edges, logits = unknowns
        return Mixture(covered(edges, self._size).expand(self._examples, -1, -1), balanced(logits))


class SharedLabels:
    """Dummies are the composites themselves; the unknowns are the shares of all labels in each of them."""

    def __init__(self, examples: int, has_one_box: bool) -> None:
        """Take the number of dummies; with one box for all, the shares of every label sum to 1."""
        self._examples, self._has_one_box = examples, has_one_box

    def first(self, generator: torch.Generator) -> Masks:
        """Return logits of the shares, shape (n, n)."""
        return (torch.randn(self._examples, self._examples, generator=generator),)

    def cooled(self, unknowns: Masks, done: float) -> Masks:
        """Return the unknowns unchanged: shares need no temperature."""
        return unknowns

    def composites(self, unknowns: Masks, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs unchanged, with mixed labels."""
        shares = balanced(unknowns[0]) if self._has_one_box else unknowns[0].softmax(1)
        return inputs, shares @ labels


@dataclass(frozen=True)
class PastingStep(LocalStep):
    """A step on composites.

    Attributes:
        pasting: the unknowns of its pasting.
    """

    pasting: Pasting = field(kw_only=True)


class WithPasting:
    """The masks of every step's forward pass, each followed by the unknowns of that step's pasting."""

    draws = 1

    def __init__(self, masks: Masking, steps: Sequence[PastingStep]) -> None:
        """Take the masking of all steps, one after the other; steps without sites have no masks."""
        self._masks, self._steps = masks, steps

    def first(self, generator: torch.Generator) -> Masks:
        """Return the unknowns of all steps."""
        masks = iter(self._masks.first(generator))
        unknowns: list[Tensor] = []
        for step in self._steps:
            unknowns += [next(masks) for _ in step.sites]
            unknowns += step.pasting.first(generator)
        return tuple(unknowns)

    def masks(
        self, variables: Masks, victims: Sequence[int], generators: Sequence[torch.Generator], done: float
    ) -> Masks:
        """Return the masks of each step, and the unknowns of its pasting at the present temperature."""
        parts = unknowns_by_step(variables, self._steps)
        dropped = iter(self._masks.masks(tuple(m for p in parts for m in p.masks), victims, generators, done))
        given: list[Tensor] = []
        for step, part in zip(self._steps, parts, strict=True):
            given += [next(dropped) for _ in part.masks]
            given += step.pasting.cooled(part.pasting, done)
        return tuple(given)

    def prior(self, masks: Masks) -> Tensor | float:
        """Return the prior of the dropout masks; pasting has none."""
        return self._masks.prior(tuple(m for part in unknowns_by_step(masks, self._steps) for m in part.masks))

    @torch.no_grad()
    def project(self, variables: Masks) -> None:
        """Keep edges inside the image; logits need no range."""
        parts = unknowns_by_step(variables, self._steps)
        self._masks.project(tuple(mask for part in parts for mask in part.masks))
        for part in parts:
            for edges in part.pasting[:-1]:  # the last one holds logits
                edges.clamp_(0.0, 1.0)


class PastedComparison(UnrolledComparison):
    """Simulates the steps of a client that trains on composites of the dummies; their labels are probabilities."""

    name = "unrolled, with composites"

    def _loss(self, step: LocalStep, inputs: Tensor, labels: Tensor, masks: Masks, weights: Tensors) -> Tensor:
        count = len(masks) - step.further
        if isinstance(step, PastingStep):
            inputs, labels = step.pasting.composites(masks[count:], inputs, labels)
        return super()._loss(step, inputs, labels, masks[:count], weights)


class MapComparison(UnrolledComparison):
    """Simulates the steps of a client that pastes maps behind one layer; labels of the dummies are probabilities.

    Every step's pasting is a `BoxPasting`.
    """

    name = "unrolled, with pasted maps"

    def __init__(self, setting: Setting, observation: Observation, steps: Sequence[PastingStep], at: str) -> None:
        """Keep a reference to the layer `at` of the setting's model."""
        super().__init__(setting, [observation], steps, checkpointed=False)
        self._layer = setting.model.get_submodule(at)

    def _loss(self, step: LocalStep, inputs: Tensor, labels: Tensor, masks: Masks, weights: Tensors) -> Tensor:
        assert isinstance(step, PastingStep)
        count = len(masks) - step.further
        mixture = cast("BoxPasting", step.pasting).mixture(masks[count:])
        with pasted_behind(self._layer, mixture):
            return super()._loss(step, inputs, mixture.of_labels(labels), masks[:count], weights)


@contextmanager
def pasted_behind(layer: nn.Module, mixture: Mixture) -> Iterator[None]:
    """Paste the outputs of a layer in every forward pass inside the context."""

    def paste(_layer: nn.Module, _inputs: object, maps: Tensor) -> Tensor:
        return mixture.of(maps)

    handle = layer.register_forward_hook(paste)
    try:
        yield
    finally:
        handle.remove()


class Unknowns(NamedTuple):
    """The unknowns of a step."""

    masks: Masks
    pasting: Masks


def unknowns_by_step(unknowns: Masks, steps: Sequence[LocalStep]) -> list[Unknowns]:
    """Return each step's part of all unknowns."""
    given = iter(unknowns)
    return [
        Unknowns(tuple(next(given) for _ in step.sites), tuple(next(given) for _ in range(step.further)))
        for step in steps
    ]


def covered(edges: Tensor, size: tuple[int, int]) -> Tensor:
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


def balanced(logits: Tensor) -> Tensor:
    """Return a soft permutation (n, n): rows and columns of exp(logits) scaled in turn to sum to 1 (Sinkhorn)."""
    for _ in range(_BALANCING):
        logits = F.log_softmax(F.log_softmax(logits, 0), 1)
    return logits.exp()
