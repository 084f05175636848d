"""Network that maps feature vectors of several layers to a prompt, with random masks for its training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedsim.core import seeding
from fedsim.core.errors import FedsimError


class Translator(nn.Module):
    """Maps vectors of each layer (B, C_l) to a prompt (B, prompts, out).

    Each layer is a token: its vector, scaled and projected, plus a learned embedding of the layer. Learned queries
    follow the layers, and the transformer's outputs at the queries are the prompt. A hidden layer is masked in
    attention, because a zero vector would still reveal its position.

    Args:
        channels: C_l of each layer.
        width_out: width of the prompt's vectors.
        size: width, number of blocks, and number of heads of the transformer.
        prompts: number of vectors of the prompt.
        generator: random source of the initial weights.
    """

    def __init__(
        self,
        channels: Sequence[int],
        width_out: int,
        size: tuple[int, int, int],
        prompts: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        width, blocks, heads = size
        if width % heads:
            raise FedsimError(f"width {width} is no multiple of {heads} heads. Change either value.")
        with seeding.isolate_randomness(int(torch.randint(2**31, (), generator=generator))):
            block = nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            self.inputs = nn.ModuleList(nn.Linear(channel, width) for channel in channels)
            self.places = nn.Parameter(0.1 * torch.randn(len(channels), width))
            self.queries = nn.Parameter(0.1 * torch.randn(prompts, width))
            self.blocks = nn.TransformerEncoder(block, blocks, nn.LayerNorm(width), enable_nested_tensor=False)
            self.out = nn.Linear(width, width_out)
        for number, width_of_layer in enumerate(channels):
            self.register_buffer(f"mean{number}", torch.zeros(width_of_layer))
            self.register_buffer(f"scale{number}", torch.ones(width_of_layer))

    def fit_scales(self, features: Sequence[Tensor]) -> None:
        """Fit the scaling of each channel to mean 0 and standard deviation 1 over features (N, C, H, W)."""
        for number, feature in enumerate(features):
            values = feature.float().transpose(0, 1).flatten(1)
            size = values.std(1, correction=0)
            self.get_buffer(f"mean{number}").copy_(values.mean(1))
            self.get_buffer(f"scale{number}").copy_(torch.where(size > 0, size, 1.0))

    def forward(self, vectors: Sequence[Tensor], is_shown: Tensor) -> Tensor:
        """Return the prompt.

        Args:
            vectors: vectors of each layer, shape (B, C_l).
            is_shown: which layers are visible, boolean (B, layers), at least one per row.
        """
        tokens = torch.stack(
            [
                project((vector - self.get_buffer(f"mean{number}")) / self.get_buffer(f"scale{number}"))
                for number, (vector, project) in enumerate(zip(vectors, self.inputs, strict=True))
            ],
            1,
        )
        queries = self.queries.expand(len(tokens), -1, -1)
        is_hidden = torch.cat((~is_shown, is_shown.new_zeros(queries.shape[:2])), 1)
        read = self.blocks(torch.cat((tokens + self.places, queries), 1), src_key_padding_mask=is_hidden)
        return self.out(read[:, tokens.shape[1] :])


def draw_kept(rows: int, count: int, rate: float, generator: torch.Generator) -> Tensor:
    """Sample booleans (rows, count), each False with probability `rate`; rows without a True are resampled."""
    kept = torch.rand(rows, count, generator=generator) >= rate
    while not (empty := ~kept.any(1)).logical_not().all():
        kept[empty] = torch.rand(int(empty.sum()), count, generator=generator) >= rate
    return kept


def pool(features: Tensor, kept: Tensor | None = None) -> Tensor:
    """Return the mean of features (B, C, H, W) over the kept positions (B, H * W), by default all, shape (B, C)."""
    flat = features.flatten(2)
    if kept is None:
        return flat.mean(2)
    return torch.einsum("bcp,bp->bc", flat, kept.to(flat.dtype)) / kept.sum(1, keepdim=True)
