"""Application of a mitigation to the traces of generations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from fedsim.core.hooks import Mitigation
from fedsim.core.types import Generated


def veil(mitigation: Mitigation[Any], texts: Sequence[Generated], generator: torch.Generator) -> list[Generated]:
    """Return the texts with the traces that a mitigation leaves observable; without seconds, which are not simulated.

    Args:
        mitigation: changes the traces.
        texts: all texts that an observer may compare.
        generator: random source of the mitigation.
    """
    traces = mitigation.transform([text.trace for text in texts], generator)
    return [replace(text, trace=trace, seconds=()) for text, trace in zip(texts, traces, strict=True)]
