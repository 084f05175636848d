"""Models that fill in masked places of a text: they name the token that stands there."""

from __future__ import annotations

from torch import nn


def mask_token(model: nn.Module) -> int | None:
    """Return the token of masked places, which is no word, of a model that fills them in; None of any other."""
    token = getattr(model, "mask_token", None)
    return token if isinstance(token, int) else None
