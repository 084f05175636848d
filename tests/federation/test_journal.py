"""What is kept of a run is what travelled, of watched rounds and clients alone."""

import torch
from flwr.app import Message, RecordDict

from fedsim.federation.client import local_training
from fedsim.federation.server import pack, unpack
from fedsim.scenario import world as worlds
from tests.experiment.running import Build
from tests.federating import run


def test_only_watched_rounds_and_clients_are_kept(scenario: Build) -> None:
    journal = run(
        scenario(
            federation={"clients": 6, "rounds": 4}, participation={"cohort": 3}, threat={"rounds": [2, 4], "victims": 2}
        )
    )
    assert [(entry.round, entry.client) for entry in journal.entries] == [
        (round_, client) for round_ in (2, 4) for client in journal.rounds[round_ - 1].cohort[:2]
    ]
    assert all(len(record.cohort) == 3 for record in journal.rounds)
    assert len({record.cohort for record in journal.rounds}) > 1


def test_the_wire_carries_the_clients_update_unchanged(scenario: Build) -> None:
    built = scenario(federation={"rounds": 2, "batch_size": 2}, threat={"rounds": [2]})
    (entry,) = run(built).entries
    update, _ = local_training(worlds.build(built), entry.received_weights, entry.round, entry.client)
    assert all(torch.equal(update.tensors[name], entry.update.tensors[name]) for name in update.tensors)
    assert (update.kind, update.examples, update.loss) == (entry.update.kind, entry.update.examples, entry.update.loss)


def test_packing_keeps_every_bit() -> None:
    vector = torch.rand(9, generator=torch.Generator().manual_seed(1))
    grid_side = Message(RecordDict(), dst_node_id=4, message_type="train")
    reply = unpack(Message(pack(vector, 7, 1.25), reply_to=grid_side), 3)
    assert (reply.client, reply.examples, reply.loss, reply.failure) == (3, 7, 1.25, None)
    assert reply.vector is not None
    assert torch.equal(reply.vector, vector)
