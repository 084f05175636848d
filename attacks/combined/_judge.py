"""Choose the guess that explains the gradient best, without the ground truth and without fitting noise.

Unknown masks of a guess are fitted to the gradient, with the inputs fixed. If the gradient is noisy, masks are fitted
on one part of the tensors and guesses are compared on the held-out part. One attack may find a part of a batch and
another attack the rest: their union is kept if it explains the gradient better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from attacks.core.batches import OrderedGuess
from attacks.core.gradient_distance import gradient_distance, knows_rates
from attacks.core.mask_readout_rules import read_masks
from attacks.core.matching.comparison import Comparison
from attacks.core.matching.descent import Descent, DescentSettings, Search, VictimGroup, descend
from attacks.core.matching.distances.cosine import CosineDistance
from attacks.core.matching.ghost import fastest
from attacks.core.matching.simulated_client import simulated_client
from attacks.core.matching.terms import DistanceConfig
from attacks.core.matching.unknown_masks import OptimisedMasks
from attacks.core.matching.unknowns import MASKS, Unknowns
from attacks.core.pixels import pixel_box
from fedsim.core.best_step import BestStep
from fedsim.core.hooks import IMAGES
from fedsim.core.types import Masks, Modality, Observation

_FEWEST = 3
_MASK_RATE = 0.03
_INPUT_RATE = 0.003
_SAME = 1e-2  # relative distance below which two guesses are the same example; exact attacks differ by less


@dataclass(frozen=True)
class FittedGuess:
    """A guess with its best masks.

    Attributes:
        distance: 1 - cosine between the guess's and the observed gradient, over the compared tensors.
    """

    inputs: Tensor
    masks: Masks
    distance: float


class GuessJudge:
    """Compares guesses for an observation.

    Attributes:
        modalities: supported modalities of the examples.
    """

    modalities: ClassVar[frozenset[Modality]] = IMAGES

    def __init__(self, observation: Observation, labels: Tensor, *, is_noisy: bool, iterations: int) -> None:
        """Hold out every other tensor of the second half if the gradient is noisy.

        Equations are solved in the first layers, so no guess depends on the held-out tensors.

        Args:
            observation: the attack's observation.
            labels: label of each example.
            is_noisy: whether to hold tensors out.
            iterations: iterations of a search for masks.
        """
        self._observation = observation
        self._labels = labels
        self._iterations = iterations
        names = [name for name, _ in observation.model.named_parameters() if name in observation.update.tensors]
        self.held_out = tuple(names[len(names) // 2 :: 2]) if is_noisy and len(names) >= _FEWEST else ()
        self._fitted = [name for name in names if name not in self.held_out]

    def judge(self, inputs: Tensor, masks: Masks | None, generator: torch.Generator) -> FittedGuess:
        """Return a guess with its distance; unknown masks are searched first, with the inputs fixed.

        Args:
            inputs: shape (B, *shape).
            masks: mask of each site, or None.
            generator: for the search of masks.
        """
        if masks is None:
            masks = self._fit(inputs, generator, rate=0.0)[1] if self._observation.sites else ()
        return FittedGuess(inputs, masks, self._distance(inputs, masks))

    def unite(self, batches: Sequence[OrderedGuess], generator: torch.Generator) -> Union:
        """Return the best combination of examples from several guesses, the best guess first.

        If masks are searched, only missing examples are filled: a mask search for each swap is too slow.
        """
        return unite(
            batches,
            self._labels,
            lambda inputs: self.judge(inputs, None, generator).distance,
            swaps=not self._observation.sites,
        )

    def settle(self, judged: FittedGuess, generator: torch.Generator) -> FittedGuess:
        """Return a guess after one more search for its masks, with the inputs fixed."""
        return self._continue_fit(judged, generator, rate=0.0)

    def polish(self, judged: FittedGuess, generator: torch.Generator) -> FittedGuess:
        """Return a guess after a mask search of the same length, in which the inputs may also move a little.

        It starts from fitted masks, since bad masks would pull good inputs away. Compare the result with `settle`: a
        longer
        search finds better masks for any inputs.
        """
        return self._continue_fit(judged, generator, rate=_INPUT_RATE)

    def _continue_fit(self, judged: FittedGuess, generator: torch.Generator, rate: float) -> FittedGuess:
        inputs, masks = self._fit(judged.inputs, generator, rate=rate, start=judged.masks)
        return FittedGuess(inputs, masks, self._distance(inputs, masks))

    def _distance(self, inputs: Tensor, masks: Masks) -> float:
        names = self.held_out or tuple(self._fitted)
        tensors = {name: self._observation.update.tensors[name] for name in names}
        part = replace(self._observation, update=replace(self._observation.update, tensors=tensors))
        return gradient_distance(part, inputs, self._labels, masks)

    def _fit(
        self, inputs: Tensor, generator: torch.Generator, rate: float, start: Masks | None = None
    ) -> tuple[Tensor, Masks]:
        unknowns = self._unknowns if start is None else self._unknowns.starting_at({MASKS: start})
        search = Search(unknowns, lambda _victim, _generator: inputs, CosineDistance(DistanceConfig()))
        settings = DescentSettings(self._iterations, rate, schedule="cosine")
        ends = BestStep(lambda _step: None)  # stops at the deadline
        victim = VictimGroup([self._observation], [self._labels], [generator], [ends])
        (row,) = descend(Descent(self._comparison, search, victim, settings, pixel_box(self._observation)))
        return row.inputs, row.masks

    @cached_property
    def _comparison(self) -> Comparison:
        observation = self._observation
        client = replace(simulated_client(observation, observation.sites, True), names=tuple(self._fitted))
        shapes = tuple(torch.ones(site.shape) for site in observation.sites)
        return fastest(client, [observation], len(self._labels), shapes, torch.Generator().manual_seed(0))

    @cached_property
    def _unknowns(self) -> Unknowns:
        observation = self._observation
        masks = OptimisedMasks(
            rate=_MASK_RATE,
            sites=observation.sites,
            known_masks=(read_masks(observation) if observation.batch_size == 1 else {},),
            begin="mean" if knows_rates(observation) else "ones",
        )
        return Unknowns((masks,))


class Union(NamedTuple):
    """A batch of examples from several guesses.

    Attributes:
        batch: the examples.
        sources: indices of the contributing guesses, the initial guess first.
    """

    batch: OrderedGuess
    sources: tuple[int, ...]


def unite(
    batches: Sequence[OrderedGuess], labels: Tensor, distance: Callable[[Tensor], float], *, swaps: bool
) -> Union:
    """Return the batch of examples from all guesses that explains the gradient best.

    Args:
        batches: the guesses, the best first.
        labels: label of each example.
        distance: gradient distance of a whole batch (B, *shape) from the observed gradient.
        swaps: whether to also try replacing found examples, at the cost of one distance for each swap.
    """
    best, least = Union(batches[0], (0,)), distance(batches[0].inputs)
    for begun, first in enumerate(batches):
        for index, batch in enumerate(batches):
            filled = _fill_missing(first, batch, labels)
            if filled is not None and (reached := distance(filled.inputs)) < least:
                best, least = Union(filled, (begun, index)), reached
    for index, batch in enumerate(batches if swaps else ()):
        for example in batch.are_found.nonzero().flatten().tolist():
            for tried in _batches_with_example(best.batch, batch.inputs[example], labels == labels[example]):
                if (reached := distance(tried.inputs)) < least:
                    best, least = Union(tried, tuple(dict.fromkeys((*best.sources, index)))), reached
                    break
    return best


def _fill_missing(batch: OrderedGuess, guess: OrderedGuess, labels: Tensor) -> OrderedGuess | None:
    """Return a batch with missing examples filled by new examples of the other guess; None without new examples."""
    inputs, are_found = batch.inputs.clone(), batch.are_found.clone()
    for example in guess.are_found.nonzero().flatten().tolist():
        empty = (~are_found & (labels == labels[example])).nonzero().flatten()
        if len(empty) and not _is_among(guess.inputs[example], inputs[are_found]):
            inputs[empty[0]], are_found[empty[0]] = guess.inputs[example].to(inputs), True
    return None if torch.equal(are_found, batch.are_found) else OrderedGuess(inputs, None, are_found)


def _batches_with_example(batch: OrderedGuess, example: Tensor, fits: Tensor) -> Iterator[OrderedGuess]:
    """Yield batches with an example in each position that fits its label; none if the batch contains it already."""
    if _is_among(example, batch.inputs[batch.are_found & fits]):
        return
    for place in fits.nonzero().flatten().tolist():
        inputs, are_found = batch.inputs.clone(), batch.are_found.clone()
        inputs[place], are_found[place] = example.to(inputs), True
        yield OrderedGuess(inputs, None, are_found)


def _is_among(example: Tensor, candidates: Tensor) -> bool:
    distances = (candidates - example.to(candidates)).flatten(1).norm(dim=1)
    return bool((distances < _SAME * example.norm()).any())
