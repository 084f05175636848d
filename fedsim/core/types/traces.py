"""What an attack on the traces of generations gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedsim.core.types.generation import TraceObservation

TraceQuestion = Literal["prompt", "member", "planted", "bits", "drawn"]


@dataclass(frozen=True)
class TraceCase:
    """Everything an attack on traces gets. Built only in `fedsim.threat.side_channels`.

    No path of references leads from here to a prompt, to the model, or to what is asked about the seen texts.

    Attributes:
        question: which prompt, a member or not, what was planted, or how many bits.
        seen: the observed texts, which the question is about, in a random order.
        known: texts that the attacker asked for itself, and so knows about; none where it cannot.
        labels: what it knows of each: the prompt's number, or 1 for a member and 0 for another.
    """

    question: TraceQuestion
    seen: tuple[TraceObservation, ...]
    known: tuple[TraceObservation, ...] = ()
    labels: tuple[int, ...] = ()
