"""Tokens of the features of a table's row, and which columns are one feature.

token_f = bias_f + sum over columns c of feature f of z_c weight_c. A number's z is its normalised value. A category's z
are 0 and 1, its normalisation undone, so that its token is the vector of its value: an embedding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fedsim.core.table_columns import categories_of
from fedsim.core.types import InputSpec


class FeatureTokens(nn.Module):
    """Rows (B, columns) to tokens (B, features, width); neighbouring columns of a category are one feature.

    Attributes:
        weight: a vector of each column, (columns, width).
        bias: a vector of each feature, (features, width).
        features: the columns of each feature.
    """

    scale: Tensor
    shift: Tensor
    belongs: Tensor

    def __init__(self, spec: InputSpec, width: int) -> None:
        """Take the columns from public statistics, without which every column is a number.

        Args:
            spec: of the rows.
            width: features of a token.
        """
        super().__init__()
        (columns,) = spec.shape
        categories = {category[0]: category for category in categories_of(spec.mean, spec.std)}
        features, start = list[tuple[int, ...]](), 0
        while start < columns:
            features.append(categories.get(start, (start,)))
            start = features[-1][-1] + 1
        self.features = tuple(features)
        bound = 1.0 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(columns, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(len(features), width).uniform_(-bound, bound))
        flags = [column for category in categories.values() for column in category]
        scale, shift = torch.ones(columns), torch.zeros(columns)
        scale[flags], shift[flags] = torch.tensor(spec.std)[flags], torch.tensor(spec.mean)[flags]
        belongs = torch.zeros(columns, len(features))
        for number, feature in enumerate(features):
            belongs[list(feature), number] = 1.0
        for name, buffer in (("scale", scale), ("shift", shift), ("belongs", belongs)):
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the tokens."""
        plain = rows * self.scale + self.shift
        return torch.einsum("bc,cf,cd->bfd", plain, self.belongs, self.weight) + self.bias
