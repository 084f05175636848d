"""Masked sums told element by element, against the ideal ones; what the server sees, and what clients refuse."""

import copy
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks._secure_round import SecureRound
from fedsim.core.errors import FedsimError
from fedsim.privacy.secure_aggregation import counting, per_element_protocol, shamir
from fedsim.privacy.secure_aggregation.config import SecureAggregation
from fedsim.privacy.secure_aggregation.ideal import ideal_aggregate
from fedsim.privacy.secure_aggregation.keys import derive_secret
from fedsim.privacy.secure_aggregation.messages import MaskedCounts, Memory, Opening, Silent
from fedsim.privacy.secure_aggregation.outcome import Aborted, Aggregate
from fedsim.privacy.secure_aggregation.per_element_protocol import (
    ConcealingClient,
    ConcealingServer,
    as_bytes,
    as_vector,
)
from fedsim.privacy.secure_aggregation.ring import modular_sum, reduce

N = 7
SIZE = 40
BITS = 40
LEAST = 3
CONFIG = SecureAggregation(mode="masked", least_contributors=LEAST)
NEEDED = CONFIG.holders_needed(N)
STAGES = ConcealingClient.stages


def uploads(clients: int = N, bits: int = BITS) -> dict[int, Tensor]:
    """Values from the whole ring, and contributions of a third of the clients."""
    numbers = torch.Generator().manual_seed(clients)
    values = torch.randint(2**bits, (clients, SIZE + 2), generator=numbers)
    contributes = torch.rand((clients, SIZE), generator=numbers) < 0.35
    return {c: torch.cat((values[c], contributes[c].long())) for c in range(clients)}


def same_as_ideal(found: Aggregate, vectors: dict[int, Tensor], gone: set[int], config: SecureAggregation) -> bool:
    there = [(client, vector) for client, vector in vectors.items() if client not in gone]
    ideal = ideal_aggregate(there, len(vectors), config)
    assert found.disclosed_mask is not None
    assert ideal.disclosed_mask is not None
    return (
        torch.equal(found.total, ideal.total)
        and torch.equal(found.disclosed_mask, ideal.disclosed_mask)
        and found.participants == ideal.participants
    )


@pytest.mark.parametrize(("stage", "bits"), [*((stage, 62) for stage in STAGES), ("open", 31)])
def test_it_tells_what_the_ideal_one_tells_whoever_falls_silent(stage: str, bits: int) -> None:
    config = SecureAggregation(mode="masked", least_contributors=LEAST, modulus_bits=bits)
    vectors, silent = uploads(bits=bits), set(range(1, 1 + N - NEEDED))
    found = SecureRound(vectors, config, {stage: silent}).run()
    assert 0 < int(found.disclosed_mask.sum()) < SIZE
    assert same_as_ideal(found, vectors, silent if STAGES.index(stage) <= STAGES.index("upload") else set(), config)


@settings(deadline=None, max_examples=6)
@given(clients=st.integers(3, 9), least=st.integers(2, 5), threshold=st.sampled_from([0.51, 0.7, 1.0]), data=st.data())
def test_drop_outs_over_several_stages(clients: int, least: int, threshold: float, data: st.DataObject) -> None:
    config = SecureAggregation(mode="masked", least_contributors=least, threshold=threshold)
    vectors, silent = uploads(clients), {stage: set[int]() for stage in STAGES}
    for client in range(data.draw(st.integers(0, clients - config.survivors_needed(clients)))):
        silent[data.draw(st.sampled_from(STAGES))].add(client)
    found = SecureRound(vectors, config, silent).run()
    assert same_as_ideal(found, vectors, set.union(*(silent[stage] for stage in STAGES[:3])), config)


@pytest.mark.parametrize("stage", ["upload", "reveal", "open"])
def test_below_the_threshold_there_is_no_sum(stage: str) -> None:
    with pytest.raises(Aborted, match=r"4 of 7 clients .*, but at least 5 must"):
        SecureRound(uploads(), CONFIG, {stage: {0, 1, 2}}).run()


def test_shares_of_a_silent_client_come_from_enough_others_or_the_round_is_aborted() -> None:
    with pytest.raises(Aborted, match="4 of 7 clients supplied shares, but at least 5 must"):
        SecureRound(uploads(), CONFIG, {"open": {0}, "supply": {1, 2}}).run()
    assert SecureRound(uploads(), CONFIG, {"supply": {0, 1, 2}}).run().participants == tuple(range(N))


def contributors(vectors: dict[int, Tensor]) -> Tensor:
    return torch.stack(list(vectors.values()))[:, SIZE + 2 :].sum(0)


def with_shifted_mask(vectors: dict[int, Tensor], element: int, by: int) -> SecureRound:
    """A round with another value of client 0 at an element, and with its self-mask there lower by as much."""
    own = derive_secret(0, "mask of values", 1, 0)
    drawn = per_element_protocol.mask

    def shifted(secret: bytes, length: int, bits: int) -> Tensor:
        stream = drawn(secret, length, bits)
        if secret == own:
            stream[element] -= by
        return reduce(stream, bits)

    changed = {**vectors, 0: vectors[0].clone()}
    changed[0][element] = (changed[0][element] + by) % 2**BITS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(per_element_protocol, "mask", shifted)
        round_ = SecureRound(changed, CONFIG, {"upload": {5}, "open": {4}})
        round_.run()
    return round_


def test_a_concealed_value_is_uniform_to_the_server() -> None:
    """Every other value has a self-mask, as likely as this one, with which the whole wire is the same."""
    vectors = uploads()
    there = {client: vector for client, vector in vectors.items() if client != 5}
    counts = contributors(there)
    concealed, told = int((counts == LEAST - 1).nonzero()[0]), int((counts >= LEAST).nonzero()[0])
    before = with_shifted_mask(vectors, concealed, 0).wire
    for by in (1, 2**39):
        assert same(before, with_shifted_mask(vectors, concealed, by).wire)
    assert not same(before, with_shifted_mask(vectors, told, 1).wire)


def same(first: Sequence[tuple[Any, ...]], second: Sequence[tuple[Any, ...]]) -> bool:
    pairs = [pair for sent in zip(first, second, strict=True) for pair in zip(*sent, strict=True)]
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


@dataclass
class Insiders:
    """What a server and its clients have of a round: all keys to what was sealed for these clients."""

    round_: SecureRound
    clients: tuple[int, ...]

    def opened(self) -> dict[int, dict[int, tuple[bytes, ...]]]:
        """What each sealed for each of these clients, by owner and holder."""
        held: dict[int, dict[int, tuple[bytes, ...]]] = {}
        for holder in self.clients:
            side, sealed = self.side(holder)
            for owner, own in sealed.items():
                held.setdefault(owner, {})[holder] = side._open(owner, own)
        return held

    def side(self, client: int) -> tuple[ConcealingClient, dict[int, bytes]]:
        got = {stage: message for stage, who, message, _ in self.round_.wire if who == client}
        memory = Memory(1, N, 3, got["share"].mask_keys, got["share"].seal_keys)
        return ConcealingClient(0, 1, client, N, self.round_.config, memory), got["upload"].sealed_shares

    def group_key(self) -> bytes:
        side, sealed = self.side(self.clients[0])
        return side._group_key(sealed)

    def values(self) -> Tensor:
        """The sum of all values, concealed ones too, without the self-masks of all clients."""
        sent = [answer for stage, _, _, answer in self.round_.wire if stage == "upload"]
        total, held = modular_sum(sent, BITS)[: SIZE + 2], self.opened()
        for owner in range(N):
            shares = [shamir.Share(holder + 1, own[2]) for holder, own in held[owner].items()]
            known = derive_secret(0, "mask of values", 1, owner) if owner in self.clients else None
            total -= per_element_protocol.mask(known or shamir.reconstruct(shares, NEEDED), SIZE + 2, BITS)
        return reduce(total, BITS)


def ran(round_: SecureRound) -> SecureRound:
    round_.run()
    return round_


def test_a_colluding_client_tells_the_counts_and_the_server_alone_has_none() -> None:
    vectors = uploads()
    round_ = ran(SecureRound(vectors, CONFIG))
    total = next(as_vector(got.total) for stage, _, got, _ in round_.wire if stage == "open")
    told = counting.decode(total, Insiders(round_, (3,)).group_key(), N, N, BITS)
    assert torch.equal(told, contributors(vectors))
    with pytest.raises(FedsimError, match=f"no sum of the counts of 7 clients at {SIZE} elements"):
        counting.decode(total, bytes(32), N, N, BITS)


class Reached(Exception):
    """The stage that a test asks for."""


def at(stage: str, client: int = 0, silent: dict[str, set[int]] | None = None) -> tuple[ConcealingClient, Any]:
    """A client that is asked for this stage next, and what it was sent for it."""

    @dataclass
    class Stopping(SecureRound):
        def receive_message(self, stage_: str, client_: int, message: Any) -> Any:
            if (stage_, client_) == (stage, client):
                memory = Memory.from_config(self._memories[client])
                raise Reached(ConcealingClient(0, 1, client, N, CONFIG, memory), message)
            return message

    with pytest.raises(Reached) as reached:
        Stopping(uploads(), CONFIG, silent or {}).run()
    return reached.value.args


def test_a_forged_sum_of_counts_is_refused() -> None:
    side, counts = at("open")
    for by in (1, 4, 2**36, 2**39, -4):
        total = as_vector(counts.total)
        total[3] = (total[3] + by) % 2**BITS
        with pytest.raises(FedsimError, match="no sum of the counts of 7 clients at 1 elements"):
            side.open(MaskedCounts(as_bytes(total)))
    for bad in (total + 2**BITS, -1 - total):
        with pytest.raises(FedsimError, match=r"entries in \[0, 2\*\*40\)"):
            side.open(MaskedCounts(as_bytes(bad)))
    side.open(counts)


def test_a_shorter_sum_of_counts_would_open_elements_as_loss_and_weight_and_is_refused() -> None:
    side, counts = at("open")
    for sent in (counts.total[:-16], counts.total + bytes(8), counts.total[:-1]):
        with pytest.raises(FedsimError, match=rf"the sum of counts has {len(sent)} bytes, expected {8 * SIZE}"):
            side.open(MaskedCounts(sent))


@dataclass
class Forging(SecureRound):
    """A server that sends other counts."""

    forged: MaskedCounts | None = None

    def receive_message(self, stage: str, client: int, message: Any) -> Any:
        del client
        return self.forged if stage == "open" else message


def test_a_server_that_deviates_and_runs_a_client_opens_what_it_likes() -> None:
    """The limit of what is promised: who has the key can forge."""
    vectors = uploads()
    key = Insiders(ran(SecureRound(vectors, CONFIG)), (3,)).group_key()
    everybody = [counting.encode(torch.ones(SIZE, dtype=torch.int64), key, N, BITS)] * N
    forged = MaskedCounts(as_bytes(modular_sum(everybody, BITS)))
    found = Forging(vectors, CONFIG, forged=forged).run()
    assert found.disclosed_mask.all()
    assert torch.equal(found.total, modular_sum(vectors.values(), BITS)[: SIZE + 2])


def test_clients_that_can_open_a_secret_read_what_is_concealed_and_one_fewer_cannot() -> None:
    vectors = uploads()
    round_ = ran(SecureRound(vectors, CONFIG))
    enough = Insiders(round_, tuple(range(NEEDED))).values()
    assert torch.equal(enough, modular_sum(vectors.values(), BITS)[: SIZE + 2])
    with pytest.raises(FedsimError, match="4 shares cannot open a secret that needs 5"):
        Insiders(round_, tuple(range(NEEDED - 1))).values()


def test_a_client_does_not_open_a_mask_that_it_must_not() -> None:
    """Client 5 dropped out: shares of its mask key were revealed, and both would unmask a late upload."""
    side, _ = at("supply", silent={"upload": {5}, "open": {4}})
    for silent, why in [
        ((0, 3), "it opened its mask, but is said to be silent"),
        ((5,), r"clients \[5\] did not upload"),
        ((9,), r"clients \[9\] did not upload"),
        ((2, 3), "4 clients of its neighbourhood are left, fewer than the 5"),
    ]:
        with pytest.raises(FedsimError, match=why):
            side.supply(Silent(silent))
    assert set(side.supply(Silent((4,))).self_masks) == {4}


def test_stages_are_answered_once_and_in_order() -> None:
    side, counts = at("open")
    with pytest.raises(FedsimError, match="request for stage 'supply', expected 'open'"):
        side.supply(Silent(()))
    side.open(counts)
    with pytest.raises(FedsimError, match="request for stage 'open', expected 'supply'"):
        side.open(counts)
    side.supply(Silent((4,)))
    with pytest.raises(FedsimError, match="request for stage 'supply', expected 'nothing more'"):
        side.supply(Silent((3,)))
    assert side.memory == Memory(1, N, len(STAGES))


def test_each_secret_has_a_polynomial_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    side, keys = at("share")
    given_out: list[tuple[bytes, bytes]] = []
    shares = shamir.shares

    def recording(secret: bytes, needed: int, points: list[int], randomness: bytes) -> dict[int, bytes]:
        given_out.append((secret, randomness))
        return shares(secret, needed, points, randomness)

    monkeypatch.setattr(shamir, "shares", recording)
    side.share(keys)
    assert len({secret for secret, _ in given_out}) == len({randomness for _, randomness in given_out}) == 3


def test_the_server_takes_openings_that_fit_each_other() -> None:
    round_ = ran(SecureRound(uploads(), CONFIG))
    answers = {stage: {who: own for at_, who, _, own in round_.wire if at_ == stage} for stage in STAGES}
    server = ConcealingServer(0, 1, range(N), CONFIG)
    server.introduce(answers["advertise"])
    server.forward(answers["share"])
    server.ask(answers["upload"])
    server.count(answers["reveal"])
    openings = dict(answers["open"])
    first: Opening = openings[0]
    fewer = bytes(1) + first.disclosed_elements[1:]
    kept = 2 + sum(byte.bit_count() for byte in fewer)
    for bad, why in [
        (replace(first, disclosed_elements=fewer, values=first.values[: 8 * kept]), "at other elements than most"),
        (replace(first, values=first.values[8:]), "it opened .* entries, expected"),
        (replace(first, values=first.values[1:]), "are no vector of int64"),
        (replace(first, values=as_bytes(as_vector(first.values) - 2**BITS)), r"entries in \[0, 2\*\*40\)"),
        (replace(first, disclosed_elements=first.disclosed_elements + bytes(1)), "6 bytes do not encode a revealed"),
    ]:
        trial = copy.deepcopy(server)
        assert trial.seek({**openings, 0: bad}) == dict.fromkeys(range(1, N), Silent((0,)))
        assert trial.rejected.keys() == {0}
        assert re.search(why, trial.rejected[0])
    with pytest.raises(FedsimError, match=r"clients \[9\], which take no part"):
        server.seek({**openings, 9: first})
    assert server.seek(openings) == {}
    assert server.rejected == {}


def test_the_server_goes_through_its_stages_in_order() -> None:
    server = ConcealingServer(0, 1, range(N), CONFIG)
    with pytest.raises(FedsimError, match="collect the clients' shares first, with `seek`"):
        server.unmask({})
    with pytest.raises(FedsimError, match="collect the uploads first"):
        server.count({})


@pytest.mark.parametrize(
    "side", [lambda c: ConcealingServer(0, 1, range(N), c), lambda c: ConcealingClient(0, 1, 0, N, c)]
)
def test_a_modulus_too_small_for_counts_is_refused(side: Callable[[SecureAggregation], object]) -> None:
    with pytest.raises(FedsimError, match="modulus_bits is 23, but counts of 7 clients need at least 26"):
        side(SecureAggregation(mode="masked", least_contributors=2, modulus_bits=23))


class Supplied(SecureRound):
    """A round whose server is as it was before the last stage, with the shares that clients supply."""

    def _serve(self, server: Any) -> Any:
        keys = server.introduce(self._answers("advertise", dict.fromkeys(self.vectors)))
        forwarded = server.forward(self._answers("share", keys))
        revealed = self._answers("reveal", server.ask(self._answers("upload", forwarded)))
        openings = self._answers("open", server.count(revealed))
        return server, self._answers("supply", server.seek(openings))


def test_one_flipped_byte_of_a_supplied_share_aborts_the_round_and_names_who_supplied_it() -> None:
    silent = set(range(1, 1 + N - NEEDED))
    server, supplied = cast("Any", Supplied(uploads(), CONFIG, {"open": silent}).run())
    assert len(supplied) == NEEDED
    assert same_as_ideal(copy.deepcopy(server).unmask(supplied), uploads(), set(), CONFIG)
    numbers = random.Random(0)
    for _ in range(200):
        holder, owner = numbers.choice(list(supplied)), numbers.choice(sorted(silent))
        share = bytearray(supplied[holder].self_masks[owner])
        share[numbers.randrange(len(share))] ^= 1 << numbers.randrange(8)
        forged = replace(supplied[holder], self_masks={**supplied[holder].self_masks, owner: bytes(share)})
        with pytest.raises(Aborted, match=rf"of client {owner}'s mask of values, clients \[{holder}\] revealed"):
            copy.deepcopy(server).unmask({**supplied, holder: forged})
