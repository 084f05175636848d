"""Contributions of made-up clients, and the same as replies for Flower's strategies."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Message, Metadata, MetricRecord, RecordDict
from torch import Tensor

from fedsim.core import registry
from fedsim.core.hooks import Aggregator
from fedsim.core.types import Contribution


@pytest.fixture(scope="session")
def rule() -> Callable[..., Aggregator[Any]]:
    """Build an aggregator of the registry."""

    def make(name: str, **settings: Any) -> Aggregator[Any]:
        method = registry.get("aggregator", name)
        return method.make(method.config.model_validate(settings))

    return make


@pytest.fixture(scope="session")
def contributions() -> Callable[..., list[Contribution]]:
    """One contribution a row, of as many examples as stated, one each when absent."""

    def make(rows: Any, examples: Sequence[int] | None = None) -> list[Contribution]:
        vectors = rows if isinstance(rows, Tensor) else torch.tensor(rows, dtype=torch.float32)
        return [
            Contribution(client, vector, count)
            for client, (vector, count) in enumerate(zip(vectors.unbind(), examples or [1] * len(vectors), strict=True))
        ]

    return make


@pytest.fixture(scope="session")
def flower() -> Callable[..., dict[str, Tensor]]:
    """Hand each client's tensors to a strategy of Flower and return what it makes of them."""

    def aggregated(
        strategy: Any,
        replies: Sequence[Mapping[str, Tensor]],
        examples: Sequence[int] | None = None,
        *,
        round_: int = 1,
    ) -> dict[str, Tensor]:
        about = Metadata(0, "", 0, 0, "", "", 0.0, 1.0, "train")
        messages = [
            Message(
                RecordDict({"arrays": ArrayRecord(dict(reply)), "metrics": MetricRecord({"num-examples": count})}),
                metadata=about,
            )
            for reply, count in zip(replies, examples or [1] * len(replies), strict=True)
        ]
        arrays, _ = strategy.aggregate_train(round_, messages)
        return {name: torch.from_numpy(array.numpy().copy()) for name, array in arrays.items()}

    return aggregated
