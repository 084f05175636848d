"""Types of apps, messages with given metadata, and messages as bytes."""

from __future__ import annotations

from flwr.app import Message, Metadata, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    message_from_proto,
    message_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
)
from flwr.proto.message_pb2 import Context as ContextProto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

__all__ = [
    "ClientAppCallable",
    "ContextProto",
    "MessageProto",
    "Mod",
    "RecordDictProto",
    "context_from_proto",
    "context_to_proto",
    "message_from_proto",
    "message_to_proto",
    "message_with",
    "recorddict_from_proto",
    "recorddict_to_proto",
]


def message_with(content: RecordDict, metadata: Metadata) -> Message:
    """Return a message with this content and metadata; Flower declares no overload that keeps the metadata."""
    return Message(content, metadata=metadata)  # pyright: ignore[reportCallIssue]
