"""Messages survive a Flower record."""

import torch
from flwr.app import ConfigRecord

from fedsim.privacy.secure_aggregation.messages import (
    ForwardedShares,
    MaskedCounts,
    Memory,
    Opening,
    RevealedShares,
    Silent,
    UnmaskRequest,
)
from tests.privacy.secure_aggregation.introducing import introduced


def test_messages_survive_a_flower_record(federation):
    sides, server, keys = introduced(federation)
    shared = {c: side.share(keys[c]) for c, side in sides.items()}
    sealed = server.forward(shared)
    requests = server.ask({c: sides[c].upload(torch.tensor([1]), sealed[c]) for c in range(3)})
    remembered = sides[0].memory
    messages = [keys[0], shared[0], sealed[0], requests[0], remembered, sides[0].reveal(requests[0])]
    messages += [UnmaskRequest((1, 2), ()), Memory(3, 4), RevealedShares({}, {}), ForwardedShares({})]
    messages += [MaskedCounts(b"12345678"), Opening(b"", b"\0"), Silent((2,)), Memory(3, 4, survivors=(1, 2))]
    for message in messages:
        assert type(message).from_config(ConfigRecord(message.to_config())) == message
