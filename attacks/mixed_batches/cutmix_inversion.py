"""cutmix-inversion: search original images through a simulated client that trains on CutMix composites.

Idea: the composites c and their labels t are differentiable functions of the originals, so their update can be matched.
    In several steps an example is in several boxes: pixels hidden in one step are visible in another.
Equation: min over x, m, A of 1 - cos(D(c(x, m, A), t(y, m, A)), D*) + l_tv TV(x), regions m and partners A per step.
Assumes: honest-but-curious server that knows the components and the number of examples; a gradient or an update of SGD
    of known step size; labels granted or inferred. With granted draws only the order of the dummy inputs is unknown.
Recovers: originals and labels, boxes and partners, and masks of known rates; for Feature CutMix the same on feature
    maps.
Fails: where fedavg-inversion fails; a region in no composite, which only the prior determines; larger batches.
Source: this project; CutMix: arXiv 1905.04899; the simulation is that of fedavg-inversion, arXiv 2206.12395.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast, final

import torch.nn.functional as F
from torch import Tensor

from attacks.core.labels import examples_of
from attacks.core.matching.attack import best_row
from attacks.core.matching.comparison import Comparison
from attacks.core.matching.descent import Descent, RestartResult, ScheduleName, Search, descend
from attacks.core.matching.optimizers import Sign
from attacks.core.matching.simulated_client import SimulatedClient
from attacks.core.matching.unknowns import Unknowns, Values
from attacks.local_steps._multistep import MultiStepAttack, MultiStepConfig, batch_sizes
from attacks.local_steps._unrolled import UnrolledComparison, dealt, local_steps
from attacks.mixed_batches._cutmix_boxes import assemble
from attacks.mixed_batches._cutmix_client import (
    BoxPasting,
    GrantedPasting,
    MapComparison,
    PastedComparison,
    Pasting,
    PastingStep,
    SearchedPasting,
    SharedLabels,
)
from attacks.mixed_batches._undo_defenses import pastes
from fedsim.core.hooks import Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Batch, Knowledge, Observation, Reconstruction, change_default
from fedsim.core.types.effects import PastedBoxes, PastedMaps
from fedsim.metrics.boxes import CutMixRecord, name_pasted_maps

_IMAGE = 3
_FOR_COMPOSITES = 0.7  # share of the iterations
_SLACK = 0.04  # error of a searched weight
_PASTE_RATE = 0.05  # Adam's step for edges, in shares of the image, and for the logits of partners


class CutmixInversionConfig(MultiStepConfig):
    """Settings of CutMix inversion."""

    schedule: ScheduleName = change_default(MultiStepConfig, schedule="cosine")
    sign: Sign = change_default(MultiStepConfig, sign="soft")
    restarts: int = change_default(MultiStepConfig, restarts=4)


@final
@attack(
    "cutmix-inversion", summary="searches CutMix's boxes and partners with the data", tier="core", related="1905.04899"
)
class CutmixInversion(MultiStepAttack[CutmixInversionConfig]):
    """Matches updates of one or several local steps through composites."""

    effort: ClassVar[Effort] = "descent"
    needs: ClassVar[frozenset[Knowledge]] = frozenset({"batch-size", "components"})
    inverts_augmentation: ClassVar[bool] = True
    example: ClassVar[Tables] = {
        "components": [{"name": "cutmix", "probability": 1.0}],
        "federation": {"batch_size": 2},
    }

    @classmethod
    def settings_for_budget(cls, gradients: int) -> dict[str, Any]:
        """Return two restarts with half as many iterations each."""
        return {"max_iterations": max(1, gradients // 2), "restarts": 2}

    def estimate_success(self, observation: Observation) -> tuple[float, str]:
        """Expect less than of exact attacks, which leave no box to search."""
        return 0.19, "boxes of the pasted parts are searched too"

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse if no component pastes, and inputs without rows and columns."""
        layer = _layer_of(observation)
        if layer is None and not pastes(observation):
            return "no component of the scenario pastes a part of an example into another"
        if layer is not None and layer not in dict(observation.model.named_modules()):
            return f"maps are pasted behind '{layer}', but the model has no layer of this name"
        if len(observation.spec.shape) != _IMAGE:
            return f"it needs images (channels, height, width), but an example has shape {observation.spec.shape}"
        return super().not_applicable(observation)

    def unknowns(self, observations: Sequence[Observation]) -> Unknowns:
        """Return the masks and the pasting of all steps as unknowns."""
        return self._unknowns(observations[0], self._steps(observations[0]))

    def dummies(self, observation: Observation) -> int:
        """Return N, the number of distinct examples."""
        return examples_of(observation)

    def labels(self, observation: Observation) -> Tensor:
        """Return the labels, dealt out to the batches."""
        labels = super().labels(observation)
        return dealt(labels, observation) if observation.local_steps > 1 else labels

    def comparison(self, observations: Sequence[Observation], search: Search) -> Comparison:
        """Compare weight deltas of the client's steps on composites."""
        return self._comparison(self._steps(observations[0]), observations[0])

    def run_descent(self, descent: Descent) -> list[RestartResult]:
        """Search originals.

        For a single step with an unknown box, search composites first, then originals from the best composites.
        """
        observation, settings = descent.victims.observations[0], descent.settings
        like = next(observation.model.parameters())
        exact = F.one_hot(descent.victims.labels[0], observation.spec.classes).to(like)
        victims = descent.victims._replace(labels=[exact])
        descent = replace(descent, victims=victims)
        if not _shows_composites(observation):
            return descend(descent)
        early = settings._replace(iterations=max(1, round(_FOR_COMPOSITES * settings.iterations)))
        rows = descend(replace(descent, settings=early))
        best = best_row(rows)
        start = None if _has_own_boxes(observation) else self._take_apart(observation, best, exact)
        if start is None or settings.iterations == early.iterations:
            return rows
        inputs, later_start = start
        unknowns = self._unknowns(observation, later_start)
        search = replace(descent.search, unknowns=unknowns, first=lambda _victim, _generator: inputs)
        remaining = settings._replace(iterations=settings.iterations - early.iterations)
        part = victims.as_part(restarts=best.start, done=early.iterations, iterations=settings.iterations)
        return descend(Descent(self._comparison(later_start, observation), search, part, remaining, descent.box))

    def report(
        self, observation: Observation, rows: Sequence[RestartResult], labels: Tensor, path: str
    ) -> Reconstruction:
        """Report originals, or composites if they cannot be separated; for a single step also the trained batch."""
        best = best_row(rows)
        result = super().report(observation, rows, labels, path)
        if observation.local_steps > 1:
            return replace(result, masks=None)
        (step,) = self._steps(observation)
        if not step.is_in(best.extra_values):  # the search continued with originals
            step = replace(step, pasting=_search(observation, len(step.examples)))
        exact = F.one_hot(labels, observation.spec.classes).to(best.inputs)
        trained = _train(observation, step.pasting, step.values_of(best.extra_values), Batch(best.inputs, exact))
        minor = float(trained.labels.topk(2).values[:, 1].max())
        return replace(result, trained_batch=trained, diagnostics={**result.diagnostics, "largest minor share": minor})

    def _comparison(self, steps: Sequence[PastingStep], observation: Observation) -> UnrolledComparison:
        return compare(self.simulated_client(observation), observation, steps)

    def _unknowns(self, observation: Observation, steps: Sequence[PastingStep]) -> Unknowns:
        masks = self.masks(observation, tuple(site for step in steps for site in step.sites))
        return masks.followed_by(*(block for step in steps for block in step.unknowns(_PASTE_RATE)))

    def _steps(self, observation: Observation) -> tuple[PastingStep, ...]:
        return tuple(
            PastingStep(step.examples, step.sites, number=number, pasting=pasting_of(observation, number))
            for number, step in enumerate(local_steps(observation))
        )

    def _take_apart(
        self, observation: Observation, best: RestartResult, labels: Tensor
    ) -> tuple[Tensor, tuple[PastingStep, ...]] | None:
        """Return originals in the order of the labels, and the step that pasted them; None if no box fits."""
        (step,) = self._steps(observation)
        _, shares = step.pasting.composites(step.values_of(best.extra_values), best.inputs, labels.to(best.inputs))
        assembled = assemble(best.inputs, shares, None, _SLACK)
        if assembled is None:
            return None
        pasting = _search(observation, len(labels)).starting_at(assembled.boxes[0], assembled.partners)
        return assembled.images, (replace(step, pasting=pasting),)


def pasting_of(observation: Observation, step: int) -> Pasting:
    """Return the unknowns: the order for granted draws, label shares for composites of a single step, else boxes."""
    read = CutMixRecord.written_in if _layer_of(observation) is None else name_pasted_maps
    pasted = None if observation.draws is None else read(observation.draws[step])
    if pasted is not None and pasted.partners is not None and pasted.boxes is not None:
        return GrantedPasting(pasted, *_size(observation))
    examples = batch_sizes(observation)[step]
    if _shows_composites(observation):
        return SharedLabels(examples, not _has_own_boxes(observation))
    return _search(observation, examples)


def compare(client: SimulatedClient, observation: Observation, steps: Sequence[PastingStep]) -> UnrolledComparison:
    """Return the simulation of a client that pastes images, or the feature maps after a layer."""
    layer = _layer_of(observation)
    if layer is None:
        return PastedComparison(client, [observation], steps, checkpointed=False)
    return MapComparison(client, observation, steps, layer)


def _search(observation: Observation, examples: int) -> SearchedPasting:
    return SearchedPasting(examples, *_size(observation), examples if _has_own_boxes(observation) else 1)


def _train(observation: Observation, pasting: Pasting, values: Values, batch: Batch) -> Batch:
    """Return the inputs of the model and their mixed labels. For pasted feature maps the inputs are the originals."""
    if _layer_of(observation) is None:
        inputs, labels = pasting.composites(values, batch.inputs, batch.labels)
        return Batch(inputs, labels)
    shares = cast("BoxPasting", pasting).mixture(values).mix_labels(batch.labels)
    return Batch(batch.inputs, shares)


def _shows_composites(observation: Observation) -> bool:
    """Return whether composites are searched first: for a single step on images with unknown boxes."""
    return observation.local_steps == 1 and observation.draws is None and _layer_of(observation) is None


def _has_own_boxes(observation: Observation) -> bool:
    return any(pasted.per_sample for pasted in observation.effects(PastedBoxes))


def _layer_of(observation: Observation) -> str | None:
    """Return the name of the layer after which maps are pasted, or None if images are pasted."""
    return next((pasted.at for pasted in observation.effects(PastedMaps)), None)


def _size(observation: Observation) -> tuple[int, int]:
    height, width = next((pasted.size for pasted in observation.effects(PastedMaps)), observation.spec.shape[1:])
    return height, width
