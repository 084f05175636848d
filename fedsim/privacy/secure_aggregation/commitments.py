"""Commitments of a client to its secrets and to each share of them.

A commitment is a SHA-256 digest. It hides a secret of 32 random bytes and binds the client: a revealed share that
differs in one bit from the committed share is rejected, and so is a reconstructed secret that differs from the
committed secret.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Secret = Literal["self-mask", "mask key", "mask of values"]
"""A secret that a client shares among its neighbours."""

DIGEST_BYTES = hashlib.sha256().digest_size


def commit(secret: Secret, round_: int, owner: int, point: int, value: bytes) -> bytes:
    """Return the commitment to a value, `DIGEST_BYTES` bytes.

    Args:
        secret: the shared secret.
        round_: round of the secret, from 1.
        owner: client number of the owner of the secret.
        point: point of the share from 1, or 0 for the secret itself.
        value: the share or the secret.
    """
    label = f"fedsim secure aggregation/commitment/{secret}/{round_}/{owner}/{point}/"
    return hashlib.sha256(label.encode() + value).digest()
