"""Small models with a pad, and texts with packed blocks."""

import torch
from torch import nn

from fedsim.components.core.pads import PadBlock, add_pad, embedding_of, pack, pad_of, read
from fedsim.core.nets.kv_cache import stack_of
from fedsim.core.nets.losses import IGNORED
from fedsim.core.types import Batch
from tests.components.generating import VOCABULARY, tiny_llama

BLOCKS = ((PadBlock(0, 2), PadBlock(4, 3)), (PadBlock(7, 1),), (PadBlock(2, 3), PadBlock(1, 1), PadBlock(5, 0)))
BLOCKS = tuple(tuple(own for own in row if own.pads) for row in BLOCKS)


def padded(seed: int = 0) -> nn.Module:
    model = tiny_llama(seed=seed).eval()
    embedding = embedding_of(model)
    assert embedding is not None
    add_pad(embedding)
    with torch.no_grad():
        embedding.get_parameter("pad").add_(1.0)
    return model


def texts() -> Batch:
    source = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCABULARY, (3, 10), generator=source)
    labels = tokens[:, 1:].clone()
    labels[2, 6:] = IGNORED
    return Batch(tokens[:, :-1], labels)


def packed_scores(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    stack, pad, batch = stack_of(model), pad_of(model), texts()
    assert stack is not None
    assert pad == VOCABULARY
    packed = pack(batch.inputs, batch.labels, BLOCKS, pad, 6)
    with torch.no_grad():
        return read(stack, packed), packed.targets
