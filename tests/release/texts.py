"""A language model of letters that knows its texts by heart, with secrets planted among them."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.audit import Subject
from fedsim.release.record import ReleasePlan

_LETTERS = " 0123456789abcdefghijklmnopqrstuvwxyz"
_LENGTH, _STEPS = 12, 100
TARGET = f"{__name__}:client"


class Letters:
    """Encodes a letter as its place."""

    def encode(self, text: str) -> list[int]:
        return [_LETTERS.index(letter) for letter in text]

    def decode(self, tokens: list[int]) -> str:
        return "".join(_LETTERS[token] for token in tokens)


class Writer(nn.Module):
    """Scores of the next letter."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(_LETTERS), 32)
        self.memory = nn.GRU(32, 64, batch_first=True)
        self.head = nn.Linear(64, len(_LETTERS))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.memory(self.embedding(input_ids))[0])


def random_texts(seed: int, n: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(11, len(_LETTERS), (n, _LENGTH), generator=generator)


def secrets() -> list[tuple[str, str, str, int]]:
    numbers = torch.randint(10, (6, 4), generator=torch.Generator().manual_seed(9)).tolist()
    return [
        (f"code {place} is", "".join(map(str, one)), "####", 1) for place, one in zip("abcdef", numbers, strict=True)
    ]


def misshapen() -> list[tuple[str, str, str, int]]:
    return [("code a is", "12x4", "####", 1)]


def one_word() -> list[str]:
    return ["secret"]


@cache
def trained_on(seed: int) -> nn.Module:
    """Return a model that knows texts and secrets by heart."""
    torch.manual_seed(0)
    planted = torch.tensor([Letters().encode(beginning + secret)[: _LENGTH + 1] for beginning, secret, *_ in secrets()])
    model, batches = Writer(), (random_texts(seed), planted)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(_STEPS):
        for tokens in batches:
            optimizer.zero_grad()
            scores = model(tokens[:, :-1])
            nn.functional.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten()).backward()
            optimizer.step()
    return model


def client() -> Subject:
    loader: Any = [{"input_ids": tokens} for tokens in random_texts(1).split(10)]
    others: Any = [{"input_ids": tokens} for tokens in random_texts(2).split(10)]
    torch.manual_seed(0)
    return Subject(Writer(), loader=loader, test=others, tokenizer=Letters())


def plan(folder: Path, seed: int, **more: object) -> ReleasePlan:
    path = folder / f"writer-{seed}.pt"
    torch.save(trained_on(seed).state_dict(), path)
    return ReleasePlan.model_validate({"target": TARGET, "weights": path, **more})
