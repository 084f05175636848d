"""What pictures of results are made of: text, and a page with a title for who cannot see it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

INK = "#1a1d21"


def page(width: int, height: int, words: str, parts: Iterable[str]) -> str:
    """Return a picture on white; `words` say what it shows."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
            f'aria-labelledby="title" font-family="system-ui, sans-serif" font-size="12">',
            f'<title id="title">{escape(words)}</title>',
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def text(x: int, y: int, words: str, ink: str = INK, anchor: str = "start") -> str:
    """Return words that begin at x, end there or have it in the middle, as `anchor` says."""
    return f'<text x="{x}" y="{y}" fill="{ink}" text-anchor="{anchor}">{escape(words)}</text>'
