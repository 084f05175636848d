"""A federation around the masked protocol: every client lives in its memory alone, and may fall silent at any stage."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedsim.privacy.secure_aggregation.config import SecureAggregation
from fedsim.privacy.secure_aggregation.messages import Memory
from fedsim.privacy.secure_aggregation.outcome import Aggregate
from fedsim.privacy.secure_aggregation.protocol import MaskingClient, UnmaskingServer

SEED = 11
ROUND = 4


@dataclass
class Federation:
    """Runs the four stages; `silent` holds the clients that no longer answer from the stage of that number on."""

    vectors: dict[int, Tensor]
    config: SecureAggregation
    silent: dict[int, set[int]] = field(default_factory=dict)
    uploads: dict[int, Tensor] = field(default_factory=dict)
    _memories: dict[int, dict] = field(default_factory=dict)

    def run(self) -> Aggregate:
        server = UnmaskingServer(SEED, ROUND, sorted(self.vectors), self.config)
        keys = server.introduce([self._at(c, "advertise") for c in self._answering(0, self.vectors)])
        sealed = server.forward([self._at(c, "share", keys[c]) for c in self._answering(1, keys)])
        self.uploads = {
            c: self._at(c, "upload", self.vectors[c], forwarded)
            for c, forwarded in sealed.items()
            if c in self._answering(2, sealed)
        }
        requests = server.ask(self.uploads)
        return server.unmask([self._at(c, "reveal", requests[c]) for c in self._answering(3, requests)])

    def _answering(self, stage, clients):
        gone = set().union(*(who for since, who in self.silent.items() if since <= stage))
        return [client for client in clients if client not in gone]

    def _at(self, client, stage, *received):
        memory = Memory.from_config(self._memories[client]) if client in self._memories else None
        side = MaskingClient(SEED, ROUND, client, len(self.vectors), self.config, memory)
        answer = getattr(side, stage)(*received)
        self._memories[client] = side.memory.to_config()
        return answer


def random_vectors(clients, length, modulus_bits, seed=0) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {c: torch.randint(2**modulus_bits, (length,), generator=generator) for c in clients}


def plain_sum(vectors, modulus_bits):
    """The sum in Python's integers, which have no size."""
    columns = zip(*(vector.tolist() for vector in vectors), strict=True)
    return [sum(column) % 2**modulus_bits for column in columns]
