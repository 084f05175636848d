"""A stroke that a viewer could have drawn."""

from typing import Any

STROKES = [0 if not (8 <= row < 20 and 12 <= column < 16) else 255 for row in range(28) for column in range(28)]

ORDER: dict[str, Any] = {"pixels": STROKES, "label": 1}
