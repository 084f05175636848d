"""Short texts of random letters, for models that fill in masked places: one that knows a text has memorised it."""

import torch

from fedsim.core.types import Batch, Dataset, InputSpec

TRAIN, TEST, LENGTH, LETTERS = 48, 200, 8, 12


def load() -> Dataset:
    """Return 48 texts for training and 200 for testing."""
    texts = torch.randint(LETTERS, (TRAIN + TEST, LENGTH), generator=torch.Generator().manual_seed(0))
    spec = InputSpec((LENGTH,), LETTERS, (), (), vocabulary=LETTERS)
    train, test = texts[:TRAIN], texts[TRAIN:]
    return Dataset(Batch(train, train), Batch(test, test), spec, ("text",), task="masked-diffusion")
