"""The masked protocol against the plain sum and the ideal functionality, with drop-outs, and what clients refuse."""

import copy
import random
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.privacy.secure_aggregation import protocol, shamir
from fedsim.privacy.secure_aggregation.config import SecureAggregation
from fedsim.privacy.secure_aggregation.ideal import ideal_aggregate
from fedsim.privacy.secure_aggregation.messages import (
    ForwardedShares,
    Memory,
    NeighbourKeys,
    RevealedShares,
    UnmaskRequest,
)
from fedsim.privacy.secure_aggregation.outcome import Aborted
from fedsim.privacy.secure_aggregation.protocol import MaskingClient, UnmaskingServer, neighbourhoods
from fedsim.privacy.secure_aggregation.quantisation import weighted_levels, weighted_mean
from tests.privacy.secure_aggregation.introducing import introduced

BITS = 40  # the default
N = 7
T = 5  # two thirds of seven, rounded up
STAGES = range(4)


def in_the_sum(vectors, silent):
    """Clients that uploaded: silent neither before nor at stage 2."""
    gone = set().union(*(who for since, who in silent.items() if since <= 2))
    return {client: vector for client, vector in vectors.items() if client not in gone}


def uploaded(federation, silent=(), **settings_):
    """Clients and the server's requests after stage 2; `silent` shared but did not upload."""
    sides, server, keys = introduced(federation, **settings_)
    sealed = server.forward({c: side.share(keys[c]) for c, side in sides.items()})
    vector = torch.tensor([1, 2, 3])
    there = {c: side for c, side in sides.items() if c not in silent}
    requests = server.ask({c: side.upload(vector, sealed[c]) for c, side in there.items()})
    return there, server, requests


@pytest.mark.parametrize("gone", range(N - T + 1))
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("bits", [32, 62])
def test_the_sum_is_exact_with_as_many_drop_outs_as_the_threshold_allows(federation, stage, gone, bits):
    config = SecureAggregation(modulus_bits=bits)
    vectors = federation.random_vectors(range(N), 30, bits)
    silent = {stage: set(range(1, 1 + gone))}
    result = federation.masked_round(vectors, config, silent).run()
    there = in_the_sum(vectors, silent)
    assert result.participants == tuple(sorted(there))
    assert result.total.tolist() == federation.plain_sum(there.values(), bits)
    ideal = ideal_aggregate(there.items(), N, config)
    assert torch.equal(ideal.total, result.total)
    assert ideal.participants == result.participants


@pytest.mark.parametrize("stage", STAGES)
def test_below_the_threshold_there_is_no_sum(federation, stage):
    vectors = federation.random_vectors(range(N), 3, BITS)
    silent = {stage: set(range(N - T + 1))}
    with pytest.raises(Aborted, match=r"4 of 7 clients .*, but at least 5 must"):
        federation.masked_round(vectors, SecureAggregation(), silent).run()


def test_the_ideal_functionality_aborts_on_the_same_uploads(federation):
    vectors = federation.random_vectors(range(T - 1), 3, BITS)
    with pytest.raises(Aborted, match="4 of 7 clients uploaded, but at least 5 must"):
        ideal_aggregate(vectors.items(), N, SecureAggregation())


@settings(deadline=None, max_examples=25)
@given(
    clients=st.lists(st.integers(0, 10**6), min_size=4, max_size=12, unique=True),
    threshold=st.floats(0.51, 1.0),
    bits=st.sampled_from([23, 32, 40, 62]),
    data=st.data(),
)
def test_drop_outs_over_several_stages(federation, clients, threshold, bits, data):
    config = SecureAggregation(threshold=threshold, modulus_bits=bits)
    order = data.draw(st.permutations(clients))
    spare = len(clients) - config.survivors_needed(len(clients))
    silent = {stage: set() for stage in STAGES}
    for client in order[: data.draw(st.integers(0, spare))]:
        silent[data.draw(st.sampled_from(STAGES))].add(client)
    vectors = federation.random_vectors(clients, 5, bits)
    result = federation.masked_round(vectors, config, silent).run()
    assert result.total.tolist() == federation.plain_sum(in_the_sum(vectors, silent).values(), bits)


@pytest.mark.parametrize("silent", [{}, {0: {3}}, {1: {3}}, {2: {3, 11}}, {3: {3}}, {0: {0}, 1: {6}, 2: {12}, 3: {18}}])
def test_a_ring_of_neighbours_gives_the_same_sum(federation, silent):
    config = SecureAggregation(neighbours=6, threshold=0.55)
    vectors = federation.random_vectors(range(20), 10, BITS)
    result = federation.masked_round(vectors, config, silent).run()
    assert result.total.tolist() == federation.plain_sum(in_the_sum(vectors, silent).values(), BITS)


@pytest.mark.parametrize("stage", [2, 3])  # before the upload; after it, when the cohort still reveals enough
def test_a_ring_aborts_when_one_neighbourhood_is_gone(federation, stage):
    config = SecureAggregation(neighbours=2, threshold=0.6)
    server = UnmaskingServer(federation.SEED, federation.ROUND, range(20), config)
    clients = [MaskingClient(federation.SEED, federation.ROUND, c, 20, config) for c in range(20)]
    keys = server.introduce({c: client.advertise() for c, client in enumerate(clients)})
    vectors = federation.random_vectors(range(20), 3, BITS)
    with pytest.raises(Aborted, match="of the neighbourhood of client .* are left, but 2 are needed"):
        federation.masked_round(vectors, config, {stage: {7, *keys[7].mask_keys}}).run()


def test_one_masked_upload_is_uniform(federation):
    """Top bits of the upload of the same constant vector by everybody; the vector itself fails the test."""
    constant = torch.full((30_000,), 5)
    round_ = federation.masked_round(dict.fromkeys(range(4), constant), SecureAggregation())
    round_.run()

    def pvalue(vector):
        return chisquare(torch.bincount(vector >> (BITS - 6), minlength=64).numpy()).pvalue

    assert pvalue(constant) < 1e-9
    for upload in round_.uploads.values():
        assert pvalue(upload) > 1e-3


def test_uploads_differ_by_round(federation):
    """A mask that returned in the next round would cancel in the difference of two uploads."""
    uploads = []
    for round_ in (1, 2):
        clients, server, keys = introduced(federation, round_=round_)
        sealed = server.forward({c: client.share(keys[c]) for c, client in clients.items()})
        uploads.append(clients[0].upload(torch.zeros(50, dtype=torch.int64), sealed[0]))
    assert (uploads[0] == uploads[1]).float().mean() < 0.1


def test_the_weighted_mean_of_a_round_is_within_one_step(federation):
    config = SecureAggregation(clipping_range=1.0, levels=2**16, modulus_bits=32)
    weights = {client: 10 + 7 * client for client in range(N)}
    updates = {c: torch.randn(200, generator=seeding.generator(1, "update", c)).double() * 0.5 for c in range(N)}
    vectors = {
        c: weighted_levels(updates[c], weights[c], config, seeding.generator(1, "rounding", c)) for c in range(N)
    }
    result = weighted_mean(federation.masked_round(vectors, config, {2: {4}}).run().total, config)
    there = [c for c in range(N) if c != 4]
    total = sum(weights[c] for c in there)
    expected = sum(updates[c].clamp(-1, 1) * weights[c] for c in there) / total
    assert result.weight == total
    assert (result.mean - expected).abs().max() <= config.step


@pytest.mark.parametrize(
    ("survivors", "dropped", "why"),
    [
        ((0, 1, 2, 3), (3,), r"clients \[3\] cannot both have uploaded and dropped out"),
        ((1, 2, 3), (0,), "is not among the survivors"),
        ((0, 1, 2), (), "shares were exchanged with"),
        ((0, 1, 2), (3, 9), "shares were exchanged with"),
        ((0, 1), (2, 3), "fewer than the 3 that are needed"),
    ],
)
def test_a_client_refuses_an_inconsistent_request(federation, survivors, dropped, why):
    sides, _, _ = uploaded(federation)
    with pytest.raises(FedsimError, match=why):
        sides[0].reveal(UnmaskRequest(survivors, dropped))


def test_a_client_does_not_reveal_the_other_secret_later(federation):
    sides, _, requests = uploaded(federation)
    revealed = sides[0].reveal(requests[0])
    assert (set(revealed.self_masks), set(revealed.mask_keys)) == ({0, 1, 2, 3}, set())
    with pytest.raises(FedsimError, match="request for stage 'reveal', expected 'nothing more'"):
        sides[0].reveal(UnmaskRequest((0, 1, 2), (3,)))


def test_no_two_groups_of_a_neighbourhood_can_both_open_a_secret():
    """So a server that tells two groups two stories about a client does not get both of its secrets."""
    for cohort in range(2, 60):
        for threshold in (0.51, 2 / 3, 0.9, 1.0):
            for neighbours in (None, 2, 12):
                config = SecureAggregation(threshold=threshold, neighbours=neighbours)
                assert 2 * config.holders_needed(cohort) > config.neighbourhood(cohort)


def test_a_revealed_share_is_of_one_secret_a_client(federation):
    sides, server, requests = uploaded(federation, silent={3})
    answers = {c: side.reveal(requests[c]) for c, side in sides.items()}
    for answer in answers.values():
        assert (set(answer.self_masks), set(answer.mask_keys)) == ({0, 1, 2}, {3})
    assert server.unmask(answers).total.tolist() == [3, 6, 9]


def test_each_secret_has_a_polynomial_of_its_own(federation, monkeypatch):
    """On one polynomial a holder's two shares would differ by as much as the secrets: one would tell the other."""
    made = []

    def recording(*arguments):
        made.append(shares(*arguments))
        return made[-1]

    shares = protocol.shamir.shares
    sides, _, keys = introduced(federation)
    monkeypatch.setattr(protocol.shamir, "shares", recording)
    sides[0].share(keys[0])
    of_self_mask, of_mask_key = made
    differences = {int.from_bytes(of_self_mask[p]) - int.from_bytes(of_mask_key[p]) for p in of_self_mask}
    assert len(differences) == len(of_self_mask) == 4  # its own share too, to which it commits


def test_a_key_seals_one_message(federation, monkeypatch):
    """The nonce is constant: two messages under one key would show their difference."""
    used = []

    def recording(key, plaintext):
        used.append(key)
        return sealed(key, plaintext)

    sealed = protocol.encrypt
    monkeypatch.setattr(protocol, "encrypt", recording)
    for round_ in (1, 2):
        sides, _, keys = introduced(federation, round_=round_)
        for client, side in sides.items():
            side.share(keys[client])
    assert len(set(used)) == len(used) == 2 * 4 * 3


def test_stages_are_answered_once_and_in_order(federation):
    sides, _, keys = introduced(federation)
    with pytest.raises(FedsimError, match="request for stage 'advertise', expected 'share'"):
        sides[0].advertise()
    with pytest.raises(FedsimError, match="request for stage 'upload', expected 'share'"):
        sides[0].upload(torch.zeros(3, dtype=torch.int64), ForwardedShares({}))
    sides[0].share(keys[0])
    with pytest.raises(FedsimError, match="request for stage 'share', expected 'upload'"):
        sides[0].share(keys[0])


def test_a_client_refuses_unfit_neighbours(federation):
    sides, _, keys = introduced(federation, clients=4)
    mask_keys, seal_keys = dict(keys[0].mask_keys), dict(keys[0].seal_keys)
    for bad, why in [
        (NeighbourKeys({}, {}), "1 clients of its neighbourhood are left"),
        (NeighbourKeys(mask_keys, {1: seal_keys[1]}), "both keys of every neighbour"),
        (NeighbourKeys({0: b"k" * 32}, {0: b"l" * 32}), "none of its own"),
        (NeighbourKeys(mask_keys | {1: mask_keys[2]}, seal_keys), "public keys are the same"),
        (NeighbourKeys(mask_keys | {8: b"k" * 32}, seal_keys | {8: b"l" * 32}), "5 clients would hold its secrets"),
    ]:
        with pytest.raises(FedsimError, match=why):
            sides[0].share(bad)


def test_a_client_uploads_only_when_enough_neighbours_are_left(federation):
    sides, server, keys = introduced(federation)
    sealed = server.forward({c: side.share(keys[c]) for c, side in sides.items()})
    vector = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(FedsimError, match="2 clients of its neighbourhood are left"):
        sides[0].upload(vector, ForwardedShares({1: sealed[0].sealed_shares[1]}))
    with pytest.raises(FedsimError, match=r"clients \[9\], which are not neighbours"):
        sides[0].upload(vector, ForwardedShares({**sealed[0].sealed_shares, 9: b""}))
    for bad in (torch.tensor([0.5]), torch.tensor([-1]), torch.tensor([2**BITS]), torch.tensor([[1]])):
        with pytest.raises(FedsimError, match="one-dimensional integer vector with entries in"):
            sides[0].upload(bad, sealed[0])


@pytest.mark.parametrize("bad", [torch.tensor([-1, 0, 0]), torch.tensor([0, 2**BITS, 0]), torch.zeros(3)])
def test_the_server_adds_up_nothing_but_elements_of_the_ring(federation, bad):
    sides, server, keys = introduced(federation)
    sealed = server.forward({c: side.share(keys[c]) for c, side in sides.items()})
    uploads = {c: side.upload(torch.tensor([1, 2, 3]), sealed[c]) for c, side in sides.items()}
    requests = server.ask({**uploads, 2: bad})
    assert list(requests) == [0, 1, 3]
    assert requests[0] == UnmaskRequest((0, 1, 3), (2,))
    assert server.rejected.keys() == {2}
    assert "one-dimensional integer vector with entries in" in server.rejected[2]


def test_shares_do_not_open_when_they_were_swapped(federation):
    sides, server, keys = introduced(federation)
    sealed = server.forward({c: side.share(keys[c]) for c, side in sides.items()})
    vector = torch.zeros(3, dtype=torch.int64)
    mixed = {**sealed[0].sealed_shares, 1: sealed[0].sealed_shares[2]}
    sides[0].upload(vector, ForwardedShares(mixed))
    with pytest.raises(FedsimError, match="does not open"):
        sides[0].reveal(UnmaskRequest((0, 1, 2, 3), ()))


def test_the_server_notices_shares_of_another_secret(federation):
    sides, server, requests = uploaded(federation, silent={3})
    answers = {c: side.reveal(requests[c]) for c, side in sides.items()}
    # The shares of a survivor's seed are valid shares of another secret.
    swapped = {c: replace(answer, mask_keys={3: answer.self_masks[1]}) for c, answer in answers.items()}
    with pytest.raises(Aborted, match=r"client 3's mask key, clients \[0, 1, 2\] revealed shares"):
        server.unmask(swapped)


def test_the_server_takes_answers_of_its_cohort_only(federation):
    _, server, _ = uploaded(federation)
    with pytest.raises(FedsimError, match=r"clients \[9\], which take no part"):
        server.unmask({9: RevealedShares({}, {})})
    fresh = UnmaskingServer(1, 1, range(3), SecureAggregation())
    with pytest.raises(FedsimError, match="no sum to unmask"):
        fresh.unmask({})


def test_a_client_forgets_a_round_that_it_did_not_finish(federation):
    sides, _, _ = introduced(federation, round_=1)
    later = MaskingClient(federation.SEED, 2, 0, 4, SecureAggregation(), sides[0].memory)
    assert later.memory == Memory(2, 4)
    first = MaskingClient(federation.SEED, 1, 0, 4, SecureAggregation())
    assert later.advertise().mask_key != first.advertise().mask_key


def test_a_client_refuses_a_round_that_is_over(federation):
    """Its masks would be the same, and the difference of two uploads that of two vectors."""
    later = MaskingClient(federation.SEED, 2, 0, 4, SecureAggregation())
    later.advertise()
    with pytest.raises(FedsimError, match="it got a request for round 1 after round 2 had begun"):
        MaskingClient(federation.SEED, 1, 0, 4, SecureAggregation(), later.memory)


def test_a_public_key_that_cannot_be_used_or_was_sent_twice_costs_its_senders_alone(federation):
    sides, _, _ = introduced(federation, clients=7)
    advertised = {
        c: MaskingClient(federation.SEED, federation.ROUND, c, 7, SecureAggregation()).advertise() for c in sides
    }
    server = UnmaskingServer(federation.SEED, federation.ROUND, range(7), SecureAggregation())
    copied = replace(advertised[1], mask_key=advertised[1].seal_key)
    keys = server.introduce({**advertised, 1: copied, 4: replace(advertised[4], seal_key=bytes(32))})
    assert server.rejected.keys() == {1, 4}
    assert "sent more than once" in server.rejected[1]
    assert "not a usable X25519 public key" in server.rejected[4]
    assert set(keys) == {0, 2, 3, 5, 6}


@pytest.mark.parametrize("wrong", [{1}, {0, 1}, {0, 1, 5}])
def test_wrong_shares_are_left_out_while_enough_are_left_and_else_abort_the_round(federation, wrong):
    sides, server, requests = uploaded(federation, clients=6, threshold=0.6)  # four of six open a secret
    answers = {c: side.reveal(requests[c]) for c, side in sides.items()}
    for client in wrong:
        answers[client] = replace(answers[client], self_masks={**answers[client].self_masks, 2: bytes(66)})
    if len(wrong) <= 2:
        assert server.unmask(answers).total.tolist() == [6, 12, 18]
        assert server.rejected == dict.fromkeys(wrong, "its share of client 2's self-mask is not the committed share.")
        return
    with pytest.raises(
        Aborted, match=r"of client 2's self-mask, clients \[0, 1, 5\] revealed .* only 3 shares are left"
    ):
        server.unmask(answers)


def test_shares_that_are_replayed_from_another_round_abort_the_round_and_open_nothing(federation):
    """Exactly as many clients reveal shares as are needed."""
    sides, server, requests = uploaded(federation, clients=4, silent={3})
    earlier, _, before = uploaded(federation, clients=4, silent={3}, round_=federation.ROUND - 1)
    answers = {client: side.reveal(requests[client]) for client, side in sides.items()}
    for replayed in ({1}, {0, 2}):
        old = {client: earlier[client].reveal(before[client]) for client in replayed}
        with pytest.raises(Aborted, match=re.escape(f"clients {sorted(replayed)} revealed")):
            copy.deepcopy(server).unmask({**answers, **old})
    assert server.unmask(answers).total.tolist() == [3, 6, 9]


def flipped(value, numbers):
    """The bytes with one bit changed, and so one byte."""
    place, bit = divmod(numbers.randrange(8 * len(value)), 8)
    return value[:place] + bytes([value[place] ^ 1 << bit]) + value[place + 1 :]


def test_one_flipped_byte_of_a_share_never_gives_a_wrong_sum_and_names_who_revealed_it(federation):
    """Exactly as many clients reveal shares as are needed, so none can be left out."""
    numbers = random.Random(0)
    sides, server, requests = uploaded(federation, clients=4, silent={3})  # three of four open a secret
    answers = {c: side.reveal(requests[c]) for c, side in sides.items()}
    assert copy.deepcopy(server).unmask(answers).total.tolist() == [3, 6, 9]
    for _ in range(400):
        revealer, kind = numbers.randrange(3), numbers.choice(["self_masks", "mask_keys"])
        shares = getattr(answers[revealer], kind)
        owner = numbers.choice(list(shares))
        forged = replace(answers[revealer], **{kind: {**shares, owner: flipped(shares[owner], numbers)}})
        with pytest.raises(Aborted, match=rf"of client {owner}'s [a-z -]*, clients \[{revealer}\] revealed"):
            copy.deepcopy(server).unmask({**answers, revealer: forged})


def test_shares_that_fit_their_commitments_and_another_secret_abort_the_round(federation):
    """A client that shares inconsistently cannot choose which sum comes out."""
    sides, server, keys = introduced(federation)
    shared = {c: side.share(keys[c]) for c, side in sides.items()}
    shared[1] = replace(shared[1], secret_commitments=shared[2].secret_commitments)
    sealed = server.forward(shared)
    requests = server.ask({c: side.upload(torch.tensor([1, 2, 3]), sealed[c]) for c, side in sides.items()})
    with pytest.raises(Aborted, match="client 1's self-mask give another secret than client 1 committed to"):
        server.unmask({c: side.reveal(requests[c]) for c, side in sides.items()})


def test_a_mask_key_that_was_not_advertised_aborts_the_round_although_it_was_committed_to(federation):
    sides, server, keys = introduced(federation)
    shared = {c: side.share(keys[c]) for c, side in sides.items()}
    other = MaskingClient(federation.SEED + 1, federation.ROUND, 3, 4, SecureAggregation())
    other.advertise()
    sealed = server.forward({**shared, 3: other.share(keys[3])})
    vectors = {c: sides[c].upload(torch.tensor([1, 2, 3]), sealed[c]) for c in range(3)}
    points = [1, 2, 3, 4]
    values = shamir.shares(other._mask_key, 3, points, other._polynomials["mask key"])
    requests = server.ask(vectors)
    for side in sides.values():
        side.memory = replace(side.memory, sealed_shares={c: s for c, s in side.memory.sealed_shares.items() if c != 3})
    answers = {
        c: RevealedShares(sides[c].reveal(UnmaskRequest((0, 1, 2), ())).self_masks if c < 3 else {}, {3: values[c + 1]})
        for c in requests
    }
    with pytest.raises(Aborted, match="a mask key that client 3 never advertised"):
        server.unmask(answers)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda sent: replace(sent, share_commitments={}), "commit to exactly the shares of all holders"),
        (
            lambda sent: replace(sent, share_commitments={c: sent.share_commitments[c] for c in range(1, 4)}),
            "itself included",
        ),
        (
            lambda sent: replace(sent, share_commitments={**sent.share_commitments, 9: bytes(64)}),
            "exactly the shares of all holders",
        ),
        (lambda sent: replace(sent, share_commitments={**sent.share_commitments, 2: bytes(63)}), "has 63 bytes"),
        (lambda sent: replace(sent, secret_commitments=bytes(65)), "has 65 bytes, expected 64"),
    ],
)
def test_commitments_of_the_wrong_shape_cost_their_sender_alone(federation, change, why):
    sides, server, keys = introduced(federation)
    shared = {c: side.share(keys[c]) for c, side in sides.items()}
    assert set(server.forward({**shared, 0: change(shared[0])})) == {1, 2, 3}
    assert why in server.rejected[0]


def test_a_client_refuses_a_cohort_that_changes_its_size(federation):
    """With a smaller one fewer clients would be enough to go on, and so to open a secret."""
    sides, _, _ = introduced(federation)
    for cohort in (3, 5):
        with pytest.raises(FedsimError, match=f"the cohort had 4 clients, and is said to have {cohort} now"):
            MaskingClient(federation.SEED, federation.ROUND, 0, cohort, SecureAggregation(), sides[0].memory)


def test_a_client_remembers_no_secret_of_its_own(federation):
    """After each stage the memory holds what it received; the secrets follow from the seed."""
    sides, _, _ = uploaded(federation)
    other = MaskingClient(federation.SEED + 1, federation.ROUND, 0, 4, SecureAggregation(), sides[0].memory)
    with pytest.raises(FedsimError, match="does not open"):
        other.reveal(UnmaskRequest((0, 1, 2, 3), ()))


def drawn(clients, neighbours, place=0):
    return neighbourhoods(clients, neighbours, seeding.generator(5, "graph", place))


def reachable(graph, start):
    seen, edge = {start}, [start]
    while edge:
        fresh = set(graph[edge.pop()]) - seen
        seen |= fresh
        edge += fresh
    return seen


@settings(deadline=None, max_examples=60)
@given(
    clients=st.lists(st.integers(0, 10**6), min_size=2, max_size=40, unique=True),
    half=st.integers(1, 10),
    place=st.integers(0, 99),
)
def test_a_ring_is_regular_mutual_and_stays_connected_without_one_client(clients, half, place):
    graph = drawn(clients, 2 * half, place)
    assert set(graph) == set(clients)
    for client, neighbours in graph.items():
        assert len(set(neighbours)) == len(neighbours) == min(2 * half, len(clients) - 1)
        assert client not in neighbours
        assert all(client in graph[neighbour] for neighbour in neighbours)
    assert reachable(graph, clients[0]) == set(clients)
    gone = clients[-1]
    rest = {c: [n for n in neighbours if n != gone] for c, neighbours in graph.items() if c != gone}
    assert reachable(rest, clients[0]) == set(clients) - {gone}


@pytest.mark.parametrize("neighbours", [None, 6, 8])
def test_with_enough_neighbours_everyone_knows_everyone(neighbours):
    graph = drawn(range(7), neighbours)
    assert all(graph[client] == tuple(sorted(set(range(7)) - {client})) for client in range(7))


def test_the_order_follows_from_the_seed():
    assert drawn(range(30), 4, 1) == drawn(range(30), 4, 1)
    assert drawn(range(30), 4, 1) != drawn(range(30), 4, 2)


def test_shares_that_do_not_open_a_neighbourhood_abort_the_round(federation):
    """All have uploaded, and the cohort reveals enough; too few are left of one neighbourhood alone."""
    config = SecureAggregation(neighbours=2, threshold=0.6)
    server = UnmaskingServer(federation.SEED, federation.ROUND, range(20), config)
    clients = [MaskingClient(federation.SEED, federation.ROUND, c, 20, config) for c in range(20)]
    keys = server.introduce({c: client.advertise() for c, client in enumerate(clients)})
    vectors = federation.random_vectors(range(20), 3, BITS)
    with pytest.raises(Aborted, match="of the neighbourhood of client .* are left, but 2 are needed"):
        federation.masked_round(vectors, config, {3: {7, *keys[7].mask_keys}}).run()


def test_masks_cancel_and_hide(federation):
    """Without drop-outs the uploads add up to the sum and the self-masks; each upload alone is another vector."""
    vectors = federation.random_vectors(range(N), 40, BITS)
    round_ = federation.masked_round(vectors, SecureAggregation())
    result = round_.run()
    assert result.total.tolist() == federation.plain_sum(vectors.values(), BITS)
    for client, vector in vectors.items():
        assert (round_.uploads[client] == vector).float().mean() < 0.1
    assert federation.plain_sum(round_.uploads.values(), BITS) != result.total.tolist()
