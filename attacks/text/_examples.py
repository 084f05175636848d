"""Small example scenarios for attacks on text."""

from __future__ import annotations

from fedsim.core.hooks import Tables

_SMALL: Tables = {"name": "tiny-llama", "width": 32, "hidden": 32}

TAGS: Tables = {
    "data": {"name": "digit-tags", "length": 4, "sentences": 40},
    "model": _SMALL,
    "threat": {"knows": ["batch-size", "dropout-rates"]},
}
"""Sentences of four words with a tag each."""

LISTS: Tables = {
    "data": {"name": "list-operations", "train": 40, "test": 10},
    "task": "next-token",
    "model": _SMALL,
    "federation": {"batch_size": 1},
    "threat": {"knows": ["batch-size", "dropout-rates"]},
}
"""One text of 21 tokens, for language models."""

MASKED: Tables = {
    **LISTS,
    "task": "masked-diffusion",
    "model": {"name": "tiny-llada", "width": 64, "hidden": 64, "blocks": 2},
    "federation": {"batch_size": 2},
}
"""Two texts with masked tokens; a single text may have no masked token."""
