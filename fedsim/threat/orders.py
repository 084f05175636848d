"""Secret orders: permutations of examples that the scenario's seed alone does not reveal.

An attack gets candidates, updates or texts in an order that must not reveal the ground truth. A permutation derived
from the seed is public: seeds are small numbers, and the derivation is open source. The generators of this module also
depend on the private data, hashed in their original order, and on the run's salt, if any. The same scenario and seed
give the same permutation on every engine. An attack that can compute the hash has the private data in their original
order, and thus the ground truth already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.types import Batch

_BYTES = 8


def secret_generator(
    private: Batch | Iterable[Tensor], seed: int, purpose: str, *path: int, salt: bytes = b""
) -> torch.Generator:
    """Return a CPU generator for a permutation that an attack cannot reproduce.

    Args:
        private: data that no attack has in this order.
        seed: the scenario's seed.
        purpose: name of the permuted items.
        path: round, client or other non-negative coordinates.
        salt: the run's salt, at most 64 bytes; empty without a salt.
    """
    tensors = (private.inputs, private.labels) if isinstance(private, Batch) else private
    digest = hashlib.blake2b(seeding.derive(seed, purpose, *path).to_bytes(_BYTES, "little"), key=salt)
    for tensor in tensors:
        digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return torch.Generator().manual_seed(int.from_bytes(digest.digest()[:_BYTES], "little") >> 1)


def secret_order(
    count: int, private: Batch | Iterable[Tensor], seed: int, purpose: str, *path: int, salt: bytes = b""
) -> Tensor:
    """Return a permutation of `count` indices, shape (count,); for the other arguments see `secret_generator`."""
    return torch.randperm(count, generator=secret_generator(private, seed, purpose, *path, salt=salt))
