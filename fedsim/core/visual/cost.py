"""What layers of Llama's kind cost, in multiplications with addition."""

from __future__ import annotations

from collections.abc import Sequence

from fedsim.core.visual.reducer import VisualShape


def prompt_cost(visual: VisualShape, tokens: Sequence[int]) -> int:
    """Return what a prompt costs: 4 n d^2 + 2 n^2 d + 3 n d m in a layer that reads n tokens.

    Args:
        visual: d its width, m the units of its MLPs.
        tokens: n of each layer of the language model.
    """
    return sum(_projections(visual, count) + 2 * count * count * visual.width for count in tokens)


def step_cost(visual: VisualShape, held: Sequence[int]) -> int:
    """Return what one more token costs: it looks at as many as each layer holds, and at itself."""
    return sum(_projections(visual, 1) + 2 * (count + 1) * visual.width for count in held)


def _projections(visual: VisualShape, tokens: int) -> int:
    return tokens * visual.width * (4 * visual.width + 3 * visual.hidden)
