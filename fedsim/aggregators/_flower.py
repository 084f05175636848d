"""Run Flower's strategies as rules for flat vectors: reply messages in, one vector out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.serverapp.strategy import FedAvg

_BLOCK = 1 << 20


def by_coordinate(strategy: FedAvg, vectors: Sequence[Tensor]) -> Tensor:
    """Return the result of a coordinate-wise Flower strategy for the vectors.

    The strategy gets one block of coordinates at a time, since Flower copies every reply several times.

    Args:
        strategy: its result for a coordinate depends only on that coordinate of every reply.
        vectors: one per client, shape (P,) each.
    """
    blocks = zip(*(vector.split(_BLOCK) for vector in vectors), strict=True)
    return torch.cat([_aggregate(strategy, block) for block in blocks])


def _aggregate(strategy: FedAvg, vectors: Sequence[Tensor]) -> Tensor:
    arrays, _ = strategy.aggregate_train(0, [_reply(vector, strategy.weighted_by_key) for vector in vectors])
    assert arrays is not None, "Flower returns nothing only for no reply"
    return arrays.to_torch_state_dict()["vector"].to(vectors[0])


def _reply(vector: Tensor, weight_key: str) -> Message:
    from flwr.app import ArrayRecord, Message, Metadata, MetricRecord, RecordDict  # noqa: PLC0415 - as in the rules

    # Other constructors of a message need the run of this process; strategies do not.
    metadata = Metadata(
        run_id=0,
        message_id="",
        src_node_id=0,
        dst_node_id=0,
        reply_to_message_id="",
        group_id="",
        created_at=0.0,
        ttl=1.0,
        message_type="train",
    )
    content = RecordDict({"arrays": ArrayRecord({"vector": vector}), "metrics": MetricRecord({weight_key: 1})})
    # Flower does not declare the overload with metadata.
    return Message(content, metadata=metadata)  # pyright: ignore[reportCallIssue]
