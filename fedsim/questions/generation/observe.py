"""From a generation to its observer: the only door for traces. What no granted view shows does not pass.

| view | shows |
|---|---|
| outputs | the text's tokens, or the sample; of a text that is filled in, which places each step wrote |
| counts | tokens of each step that sent any, as a network observer reads off packets |
| work | every count of every step, as a neighbour on the machine or a power meter reads off |
| timing | seconds of every step |
| activations | what crossed between layers in every step, as a party of split inference receives it |
"""

from __future__ import annotations

from collections.abc import Collection
from typing import get_args

from fedsim.core.errors import FedsimError, nearest
from fedsim.core.types import Activations, Generated, TraceObservation, TraceView

VIEWS: tuple[TraceView, ...] = get_args(TraceView)


def observe_trace(generated: Generated, views: Collection[TraceView]) -> TraceObservation:
    """Return what an observer with these views gets of a generation; of tensors, copies.

    Args:
        generated: what the generation came to.
        views: all that the threat model grants; each shows its own part alone.

    Raises:
        FedsimError: there is no such view, none is granted, or the driver kept no activations to show.
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
        raise FedsimError(f"there is no view '{unknown[0]}' of a generation.{nearest(unknown[0], VIEWS)}")
    if not views:
        raise FedsimError(f"an observer of a generation has at least one view. Known: {', '.join(VIEWS)}.")
    if "activations" in views and generated.trace.events and not generated.activations:
        raise FedsimError(
            "the view 'activations' shows what crosses between layers, and none was kept. Name the modules whose "
            "outputs the observer receives: cuts=[...] of fedsim.generation.generate."
        )
