"""A client's memory between rounds, in Flower's `Context.state`.

A client cannot know whether its update counted: it may have been late, lost, or refused. The memory of a round is
therefore stored as pending, and becomes effective when the server's next message confirms the round.
"""

from __future__ import annotations

from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedsim.core.errors import ClientRefusal
from fedsim.core.types import Memory

_KEPT, _PENDING, _ROUND = "memory", "pending", "pending-round"
_BEGUN = "begun-round"
_SEPARATOR = " / "


def begin(state: RecordDict, round_: int) -> None:
    """Record that a client answers a round. It answers each round once, because its noise and masks derive from it.

    Raises:
        ClientRefusal: it has answered this round or a later one.
    """
    last = cast("int", state.config_records[_BEGUN]["round"]) if _BEGUN in state else 0
    if round_ <= last:
        raise ClientRefusal(
            f"it got a request to train in round {round_}, but answers each round once, the last was {last}"
        )
    state[_BEGUN] = ConfigRecord({"round": round_})


def recall(state: RecordDict, counted: int) -> Memory:
    """Return a copy of the client's memory, and commit or drop the pending memory.

    Args:
        state: Flower's state of the client; changed.
        counted: last round with a counted update of this client, 0 if none.
    """
    if _PENDING in state:
        if state.config_records[_ROUND]["round"] == counted:
            state[_KEPT] = state[_PENDING]
        del state[_PENDING], state[_ROUND]
    return _unpack(state.array_records[_KEPT]) if _KEPT in state else {}


def remember(state: RecordDict, round_: int, memory: Memory) -> None:
    """Store a client's memory after a round as pending; an empty memory is not stored."""
    if not memory:
        return
    state[_PENDING] = ArrayRecord(
        {f"{owner}{_SEPARATOR}{name}": t for owner, tensors in memory.items() for name, t in tensors.items()}
    )
    state[_ROUND] = ConfigRecord({"round": round_})


def _unpack(record: ArrayRecord) -> Memory:
    memory: Memory = {}
    for key, tensor in record.to_torch_state_dict().items():
        owner, _, name = cast("str", key).partition(_SEPARATOR)
        memory.setdefault(owner, {})[name] = tensor
    return memory
