"""Undocumented names of Flower: messages survive their way as bytes, with their metadata."""

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedsim.core.foreign.flower import in_process, messages


@pytest.fixture(autouse=True)
def _identity() -> None:
    """Flower reads the identity of its process when it makes a message."""
    in_process.TaskIdentity.task_id = in_process.TaskIdentity.run_id = in_process.TaskIdentity.node_id = 1


def order() -> Message:
    return Message(RecordDict({"config": ConfigRecord({"round": 3})}), 7, "train", group_id="1")


def test_a_message_keeps_the_given_metadata() -> None:
    first, content = order(), RecordDict({"config": ConfigRecord({"round": 4})})
    second = messages.message_with(content, first.metadata)
    assert second.metadata is first.metadata
    assert second.content == content
    assert (second.metadata.dst_node_id, second.metadata.message_type) == (7, "train")


def test_messages_contexts_and_records_return_from_bytes() -> None:
    sent = messages.message_to_proto(order()).SerializeToString()
    received = messages.message_from_proto(messages.MessageProto.FromString(sent))
    assert received.content == order().content
    assert received.metadata.dst_node_id == 7
    context = Context(5, 6, {"partition": 2}, RecordDict({"state": ConfigRecord({"a": 1.5})}), {"lr": 0.1})
    stored = messages.context_to_proto(context).SerializeToString()
    assert messages.context_from_proto(messages.ContextProto.FromString(stored)) == context
    parts = messages.recorddict_to_proto(context.state).SerializeToString()
    assert messages.recorddict_from_proto(messages.RecordDictProto.FromString(parts)) == context.state
