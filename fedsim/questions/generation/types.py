"""Input of attacks on generation traces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedsim.core.types.generation import TraceObservation

TraceQuestion = Literal["prompt", "member", "planted", "bits", "drawn"]


@dataclass(frozen=True)
class TraceCase:
    """All inputs of an attack on traces. Built only in `fedsim.questions.generation.side_channels`.

    It holds no reference to a prompt, to the model, or to the answers for the observed texts.

    Attributes:
        question: infer the prompt, membership, a planted secret, or the number of bits.
        observations: observed texts, to which the question refers, in random order.
        known_observations: texts that the attacker requested itself, with known answers; empty if it cannot.
        labels: answer of each known text: the prompt's index, or 1 for a member and 0 for a non-member.
    """

    question: TraceQuestion
    observations: tuple[TraceObservation, ...]
    known_observations: tuple[TraceObservation, ...] = ()
    labels: tuple[int, ...] = ()
