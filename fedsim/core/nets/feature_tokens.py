"""Feature tokens of table rows, and the grouping of columns into features.

token_f = bias_f + sum over columns c of feature f of z_c weight_c. z is the normalised value of a numeric column. For
the columns of a category, z is 0 or 1 (denormalised), so its token is an embedding of its value.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fedsim.core.nets.table_columns import categories_of
from fedsim.core.types import InputSpec


class FeatureTokens(nn.Module):
    """Maps rows (B, columns) to tokens (B, features, width); adjacent columns of a category form a feature.

    Attributes:
        weight: a vector per column, (columns, width).
        bias: a vector per feature, (features, width).
        features: the columns of each feature.
    """

    scale: Tensor
    shift: Tensor
    belongs: Tensor

    def __init__(self, spec: InputSpec, width: int) -> None:
        """Group the columns by public statistics; without statistics each column is numeric.

        Args:
            spec: description of the rows.
            width: width of a token.
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
