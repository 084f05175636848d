"""Flower's strategies as rules for flat vectors: contributions go in as reply messages, one vector comes out."""

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
    """Return what a Flower strategy that treats every coordinate by itself makes of the vectors.

    It is asked for a block of coordinates at a time: each of its replies is copied several times on the way.

    Args:
        strategy: one whose result for a coordinate depends on nothing but that coordinate of every reply.
        vectors: one a client, shape (P,) each.
    """
    blocks = zip(*(vector.split(_BLOCK) for vector in vectors), strict=True)
    return torch.cat([_aggregated(strategy, block) for block in blocks])


def _aggregated(strategy: FedAvg, vectors: Sequence[Tensor]) -> Tensor:
    arrays, _ = strategy.aggregate_train(0, [_reply(vector, strategy.weighted_by_key) for vector in vectors])
    assert arrays is not None, "Flower returns nothing only for no reply"
    return arrays.to_torch_state_dict()["vector"].to(vectors[0])


def _reply(vector: Tensor, weight_key: str) -> Message:
    from flwr.app import ArrayRecord, Message, Metadata, MetricRecord, RecordDict  # noqa: PLC0415 - as in the rules

    # Other ways to make a message ask which run this process belongs to; the strategies do not.
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
    # The overload that takes metadata is not among Flower's declared ones.
    return Message(content, metadata=metadata)  # pyright: ignore[reportCallIssue]
