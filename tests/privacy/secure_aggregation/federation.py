"""Rounds of the masked protocol, vectors for them, and their plain sum."""

import torch
from torch import Tensor

from benchmarks._secure_round import SecureRound
from fedsim.privacy.secure_aggregation.protocol import MaskingClient

SEED = 11
ROUND = 4


def masked_round(vectors, config, silent=None) -> SecureRound:
    """Return a round of the masked protocol; `silent` holds who answers no more from the stage of that number on."""
    stages = MaskingClient.stages
    return SecureRound(vectors, config, {stages[since]: who for since, who in (silent or {}).items()}, SEED, ROUND)


def random_vectors(clients, length, modulus_bits, seed=0) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {c: torch.randint(2**modulus_bits, (length,), generator=generator) for c in clients}


def plain_sum(vectors, modulus_bits):
    """The sum in Python's integers, which have no size."""
    columns = zip(*(vector.tolist() for vector in vectors), strict=True)
    return [sum(column) % 2**modulus_bits for column in columns]
