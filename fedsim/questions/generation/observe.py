"""Build the observation of a generation. It contains only what the granted views show.

| view | shows |
|---|---|
| outputs | the text's tokens, or the sample; for masked generation also the positions written in each step |
| counts | tokens of each step that sent any, as a network observer infers from packets |
| work | every count of every step, as a co-located process or a power meter infers |
| timing | seconds of every step |
| activations | activations that crossed between layers in every step, as a party of split inference receives them |
"""

from __future__ import annotations

from collections.abc import Collection
from typing import get_args

from fedsim.core.errors import FedsimError, did_you_mean
from fedsim.core.types import Activations, Generated, TraceObservation, TraceView

VIEWS: tuple[TraceView, ...] = get_args(TraceView)


def observe_trace(generated: Generated, views: Collection[TraceView]) -> TraceObservation:
    """Return the observation of a generation under the given views; tensors are copied.

    Args:
        generated: result of the generation.
        views: all granted views; each shows only its own part.

    Raises:
        FedsimError: a view is unknown, no view is granted, or the driver stored no activations.
    """
    _check(generated, views)
    trace = generated.trace
    sample = None if generated.x is None else generated.x.clone()
    return TraceObservation(
        views=tuple(view for view in VIEWS if view in views),
        output=(generated.tokens if sample is None else sample) if "outputs" in views else None,
        places=trace.places if trace.places and "outputs" in views else None,
        counts=tuple(count for count in trace.tokens if count) if "counts" in views else None,
        work=trace.series() if "work" in views else None,
        seconds=generated.seconds if "timing" in views else None,
        activations=tuple(map(_copy, generated.activations)) if "activations" in views else None,
    )


def _copy(step: Activations) -> Activations:
    return tuple((name, tensor.clone()) for name, tensor in step)


def _check(generated: Generated, views: Collection[TraceView]) -> None:
    unknown = [view for view in views if view not in VIEWS]
    if unknown:
        raise FedsimError(f"unknown view '{unknown[0]}' of a generation.{did_you_mean(unknown[0], VIEWS)}")
    if not views:
        raise FedsimError(f"an observer of a generation has at least one view. Known: {', '.join(VIEWS)}.")
    if "activations" in views and generated.trace.events and not generated.activations:
        raise FedsimError(
            "the view 'activations' shows activations between layers, and none were recorded. "
            "Name the modules whose outputs the observer receives: cuts=[...] of "
            "fedsim.generation.generate."
        )
