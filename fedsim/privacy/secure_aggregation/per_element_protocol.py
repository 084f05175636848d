"""Masked sums with per-element disclosure: the stages of `protocol`, and two more.

    stage  client                               server
    3      reveal   shares for the counts    -> count    the survivors' encoded counts
    4      open     its mask, if disclosed   -> seek     survivors that opened nothing
    5      supply   shares of their masks    -> unmask   the sum, if disclosed

Client i uploads two halves with a joint pairwise mask, and a self-mask on each:

    values x_i + PRG(b_i),    counts as in `counting` + PRG(b'_i).

For the counts' key each client seals a random part for every other in stage 1; the key is derived from the parts of all
clients that shared. In stage 3 the server obtains the seeds b'_i, like the seeds of self-masks in `protocol`, and so
the sum of the survivors' encoded counts, from which it learns nothing. It returns that sum. Each survivor decodes the
counts, and refuses an invalid sum. It opens PRG(b_i) at elements with enough contributing clients, and for loss and
weight. For a survivor that opens nothing the others reveal shares of b_i itself.

Concealed elements stay masked by b_i of every honest client that opened. At least `holders_needed` clients did, so a
server that follows the protocol and controls fewer clients learns none. A single controlled client reveals the counts.

A construction of this project, after the idea of arXiv 2508.04285, whose protocol is another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.privacy.secure_aggregation import counting, shamir
from fedsim.privacy.secure_aggregation.commitments import Secret
from fedsim.privacy.secure_aggregation.config import SecureAggregation
from fedsim.privacy.secure_aggregation.keys import derive_secret, expand
from fedsim.privacy.secure_aggregation.masks import mask
from fedsim.privacy.secure_aggregation.messages import (
    ForwardedShares,
    MaskedCounts,
    Memory,
    Opening,
    RevealedShares,
    Silent,
    UnmaskRequest,
)
from fedsim.privacy.secure_aggregation.outcome import Aggregate
from fedsim.privacy.secure_aggregation.per_element import ALWAYS_TOLD, halves, with_always_told
from fedsim.privacy.secure_aggregation.protocol import SECRETS, MaskingClient, UnmaskingServer, check_lengths
from fedsim.privacy.secure_aggregation.ring import check_element, reduce

_ENTRY_BYTES = 8
_SECRETS: tuple[Secret, ...] = (*SECRETS, "mask of values")


@final
class ConcealingClient(MaskingClient):
    """A client in a round. Its vector is the result of `with_contributions`."""

    stages: ClassVar[tuple[str, ...]] = (*MaskingClient.stages, "open", "supply")
    secrets: ClassVar[tuple[Secret, ...]] = _SECRETS

    def __init__(
        self, seed: int, round_: int, client: int, cohort: int, config: SecureAggregation, memory: Memory | None = None
    ) -> None:
        """Join a cohort, with the memory of earlier stages; raise FedsimError where the modulus is small for counts."""
        super().__init__(seed, round_, client, cohort, config, memory)
        counting.check_modulus(cohort, config.modulus_bits)
        self._cohort = cohort
        self._value_mask = derive_secret(seed, "mask of values", round_, client)
        self._part = derive_secret(seed, "part of the group key", round_, client)

    def upload(self, vector: Tensor, forwarded: ForwardedShares) -> Tensor:
        """Stage 2: return the masked vector, shape (2P + 2,)."""
        masked = super().upload(vector, forwarded)
        self.memory = replace(self.memory, entries=len(vector))
        return masked

    def reveal(self, request: UnmaskRequest) -> RevealedShares:
        """Stage 3: return the shares that unmask the sum of the counts, and shares of dropped clients' mask keys."""
        before, answer = self.memory, super().reveal(request)
        self.memory = replace(before, stage=self.memory.stage, survivors=request.survivors)
        return answer

    def open(self, counts: MaskedCounts) -> Opening:
        """Stage 4: return the mask of the values where enough clients contributed.

        Raises:
            FedsimError: the server sent no sum of the survivors' counts.
        """
        self._check_turn("open")
        revealed = self._counts(counts.total) >= self._config.least_contributors
        disclosed = with_always_told(revealed)
        values = mask(self._value_mask, len(disclosed), self._config.modulus_bits)[disclosed]
        self.memory = replace(self.memory, stage=self.memory.stage + 1)
        return Opening(np.packbits(revealed.numpy()).tobytes(), as_bytes(values))

    def supply(self, silent: Silent) -> RevealedShares:
        """Stage 5: return the shares of the masks of survivors that opened nothing."""
        self._check_turn("supply")
        self._check_silent(set(silent.clients))
        shares = {client: self._open(client, self.memory.sealed_shares[client])[2] for client in silent.clients}
        self.memory = Memory(self._round, self._cohort, len(self.stages))
        return RevealedShares(shares, {})

    def _values(self) -> dict[Secret, bytes]:
        return {**super()._values(), "mask of values": self._value_mask}

    def _plaintext(self, shares: Mapping[Secret, bytes]) -> bytes:
        """Return the message for a holder: its shares, then a part of the group key."""
        return super()._plaintext(shares) + self._part

    def _self_masked(self, vector: Tensor, sealed: Mapping[int, bytes]) -> Tensor:
        values, contributes = halves(vector)
        bits = self._config.modulus_bits
        counts = counting.encode(contributes, self._group_key(sealed), self._cohort, bits)
        value_mask = mask(self._value_mask, len(values), bits)
        return torch.cat((reduce(values + value_mask, bits), super()._self_masked(counts, sealed)))

    def _counts(self, total: bytes) -> Tensor:
        size = (self.memory.entries - ALWAYS_TOLD) // 2
        if len(total) != _ENTRY_BYTES * size:
            # In a shorter sum, the always disclosed entries would coincide with elements.
            raise self._refusal(f"the sum of counts has {len(total)} bytes, expected {_ENTRY_BYTES * size}")
        key, survivors = self._group_key(self.memory.sealed_shares), len(self.memory.survivors)
        masked = as_vector(total)
        check_element(masked, self._config.modulus_bits)
        return counting.decode(masked, key, survivors, self._cohort, self._config.modulus_bits)

    def _group_key(self, sealed: Mapping[int, bytes]) -> bytes:
        parts = {sender: self._open(sender, ciphertext)[-1] for sender, ciphertext in sealed.items()}
        parts[self._client] = self._part
        order = sorted(parts)
        return expand(b"".join(parts[client] for client in order), f"group key/{self._round}/{order}")

    def _check_silent(self, silent: set[int]) -> None:
        survivors = set(self.memory.survivors)
        if self._client in silent:
            raise self._refusal("it opened its mask, but is said to be silent")
        if silent - survivors:
            raise self._refusal(f"clients {sorted(silent - survivors)} did not upload")
        self._check_holders(len(survivors - silent))


@final
class ConcealingServer(UnmaskingServer):
    """The server in a round: the stages of `UnmaskingServer`, with `count` and `seek` before `unmask`."""

    secrets: ClassVar[tuple[Secret, ...]] = _SECRETS
    further_sealed: ClassVar[int] = shamir.SECRET_BYTES  # a part of the group key

    def __init__(self, seed: int, round_: int, cohort: Sequence[int], config: SecureAggregation) -> None:
        """Take the cohort's client numbers; raise FedsimError where the modulus is small for counts."""
        super().__init__(seed, round_, cohort, config)
        counting.check_modulus(len(cohort), config.modulus_bits)
        self._values = torch.empty(0, dtype=torch.int64)
        self._counted: set[int] = set()
        self._silent: set[int] = set()
        self._revealed: Tensor | None = None

    def count(self, revealed: Mapping[int, RevealedShares]) -> dict[int, MaskedCounts]:
        """Stage 3 to 4: return, for every client that revealed shares, the sum of the survivors' encoded counts.

        Raises:
            Aborted: fewer clients than the threshold, or shares that do not open a secret.
            FedsimError: shares came from a client that did not upload.
        """
        self_masked, answers = self._remove_dropped(revealed)
        self._values, masked = halves(self_masked)
        counts = MaskedCounts(as_bytes(self._remove_own_masks("self-mask", masked, self._uploaded, answers)))
        self._counted = set(answers)
        return dict.fromkeys(sorted(answers), counts)

    def seek(self, openings: Mapping[int, Opening]) -> dict[int, Silent]:
        """Stage 4 to 5: return, for every client that opened its mask, the clients that did not; empty if all did.

        All clients decode the same counts, so a client that opens at other elements than the majority is rejected.

        Raises:
            Aborted: fewer clients than the threshold.
            FedsimError: openings came from a client without a request.
        """
        well_formed = self._usable(openings, self._counted, self._check_opening)
        votes = Counter(opening.disclosed_elements for opening in well_formed.values())
        majority = max(votes, key=lambda places: votes[places], default=b"")
        opened = self._usable(well_formed, self._counted, lambda _client, opening: _check_told(opening, majority))
        self._check_survivors(opened, "opened their masks")
        self._revealed = self._bits(majority)
        disclosed = with_always_told(self._revealed)
        for opening in opened.values():
            self._values[disclosed] = reduce(
                self._values[disclosed] - as_vector(opening.values), self._config.modulus_bits
            )
        self._silent = self._uploaded - set(opened)
        if not self._silent:
            return {}
        return dict.fromkeys(sorted(opened), Silent(tuple(sorted(self._silent))))

    def unmask(self, revealed: Mapping[int, RevealedShares]) -> Aggregate:
        """Stage 5: return the sum, 0 at concealed elements. No shares are needed if all clients opened their masks.

        Raises:
            Aborted: fewer clients than the threshold, or shares that do not open a mask.
            FedsimError: called before `seek`, or shares came from a client without a request.
        """
        if self._revealed is None:
            raise FedsimError("no sum to unmask: collect the clients' shares first, with `seek`.")
        answers = self._usable(revealed, self._uploaded - self._silent, self._check_supplied)
        if self._silent:
            self._check_survivors(answers, "supplied shares")
        total = self._remove_own_masks("mask of values", self._values, self._silent, answers)
        participants = tuple(sorted(self._uploaded))
        return Aggregate(total * with_always_told(self._revealed), participants, self._revealed)

    def _bits(self, packed: bytes) -> Tensor:
        size = len(self._values) - ALWAYS_TOLD
        if len(packed) != -(-size // 8):
            raise FedsimError(f"{len(packed)} bytes do not encode a revealed flag for each of {size} elements.")
        return torch.from_numpy(np.unpackbits(np.frombuffer(packed, np.uint8), count=size).astype(bool))

    def _check_opening(self, _client: int, opening: Opening) -> None:
        values, disclosed = as_vector(opening.values), with_always_told(self._bits(opening.disclosed_elements))
        check_element(values, self._config.modulus_bits)
        if len(values) != int(disclosed.sum()):
            raise FedsimError(f"it opened {len(values)} entries, expected {int(disclosed.sum())}.")

    def _check_supplied(self, _client: int, shares: RevealedShares) -> None:
        if set(shares.self_masks) != self._silent or shares.mask_keys:
            raise FedsimError("it must reveal exactly the requested shares.")
        check_lengths(shares.self_masks, shamir.SHARE_BYTES)


def _check_told(opening: Opening, majority: bytes) -> None:
    if opening.disclosed_elements != majority:
        raise FedsimError("it opened its mask at other elements than most.")


def as_bytes(vector: Tensor) -> bytes:
    """Return an int64 vector as it travels."""
    return vector.numpy().astype("<i8").tobytes()


def as_vector(data: bytes) -> Tensor:
    """Return the vector behind `as_bytes`; raise FedsimError for bytes that are none."""
    if len(data) % _ENTRY_BYTES:
        raise FedsimError(f"{len(data)} bytes are no vector of int64.")
    return torch.from_numpy(np.frombuffer(data, "<i8").astype(np.int64))
