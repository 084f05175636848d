"""A language model that learns rows of tokens by heart."""

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from fedsim.audit.subject import CheckedSubject, Subject, check_subject

VOCABULARY, LENGTH = 40, 10


class Rows(nn.Module):
    """Scores the next token by this one and the place: no more than a table that can be learned at once."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, VOCABULARY)
        self.mix = nn.GRU(VOCABULARY, VOCABULARY, batch_first=True)
        self.head = nn.Linear(VOCABULARY, VOCABULARY)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.mix(self.embedding(input_ids))[0])


def subject(learning_rate: float, length: int = LENGTH, count: int = 80) -> CheckedSubject:
    source = torch.Generator().manual_seed(5)
    rows = [{"input_ids": own} for own in torch.randint(VOCABULARY, (count, length), generator=source)]
    torch.manual_seed(1)
    loader: Any = DataLoader(rows, 8)  # pyright: ignore[reportArgumentType]
    return check_subject(Subject(Rows(), None, loader, optimizer="adam", learning_rate=learning_rate), "test")
