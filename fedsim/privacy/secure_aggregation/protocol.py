"""The two sides of SecAgg and SecAgg+: four stages between many `MaskingClient`s and one `UnmaskingServer`.

    stage  client                        server
    0      advertise   public keys    -> introduce   keys of the neighbours
    1      share       sealed shares  -> forward     to the neighbours
    2      upload      masked vector  -> ask         survivors and dropped clients
    3      reveal      shares         -> unmask      the sum

Client i uploads, modulo 2**modulus_bits,

    x_i + PRG(b_i) + sum over j > i of PRG(s_ij) - sum over j < i of PRG(s_ij),

where j runs over the neighbours that sent shares. Pairwise masks cancel in the sum. For a survivor, its neighbours
reveal shares of b_i; for a client that dropped out before its upload they reveal shares of its mask key, from which the
server computes and removes its pairwise masks. No client reveals both for the same client: together they would unmask a
late upload.

In stage 1 each client also commits to its secrets and to every share of them. The server uses a revealed share only if
it is the committed share, and an opened secret only if it is the committed secret.

Papers: Bonawitz et al. 2017 (ePrint 2017/281), Bell et al. 2020 (ePrint 2020/704).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.privacy.secure_aggregation import shamir
from fedsim.privacy.secure_aggregation.commitments import DIGEST_BYTES, Secret, commit
from fedsim.privacy.secure_aggregation.config import SecureAggregation
from fedsim.privacy.secure_aggregation.keys import (
    TAG_BYTES,
    agree_on_key,
    check_public_key,
    decrypt,
    derive_secret,
    encrypt,
    public_key,
)
from fedsim.privacy.secure_aggregation.masks import mask
from fedsim.privacy.secure_aggregation.messages import (
    ForwardedShares,
    Memory,
    NeighbourKeys,
    PublicKeys,
    RevealedShares,
    SealedShares,
    UnmaskRequest,
)
from fedsim.privacy.secure_aggregation.outcome import Aborted, Aggregate, check_cohort, check_survivors
from fedsim.privacy.secure_aggregation.ring import check_element, modular_sum, reduce

SECRETS: tuple[Secret, ...] = ("self-mask", "mask key")
_SECRET_POINT = 0
_Answer = TypeVar("_Answer")


class MaskingClient:
    """A client in a round. Its secrets follow from (seed, round, client); all other state is in `memory`.

    Every method is a stage and answers once. It raises FedsimError if it is called out of order, or if an answer
    would reveal this or another client's vector.
    """

    stages: ClassVar[tuple[str, ...]] = ("advertise", "share", "upload", "reveal")
    secrets: ClassVar[tuple[Secret, ...]] = SECRETS

    def __init__(
        self, seed: int, round_: int, client: int, cohort: int, config: SecureAggregation, memory: Memory | None = None
    ) -> None:
        """Join a cohort of `cohort` clients, with the memory of earlier stages.

        Memory of an earlier, unfinished round is dropped.

        Raises:
            FedsimError: a later round has begun, so this round would reuse its masks; or the cohort had another size
                before, which changes the number of holders needed to open a secret.
        """
        check_cohort(cohort)
        self._round = round_
        self._client = client
        self._config = config
        self._neighbourhood = config.neighbourhood(cohort)
        self._holders_needed = config.holders_needed(cohort)
        self._mask_key = derive_secret(seed, "mask key", round_, client)
        self._seal_key = derive_secret(seed, "seal key", round_, client)
        self._self_mask = derive_secret(seed, "self-mask", round_, client)
        self._polynomials = {
            secret: derive_secret(seed, f"polynomial of the {secret}", round_, client) for secret in self.secrets
        }
        self.memory = memory if memory and memory.round >= round_ else Memory(round_, cohort)
        if self.memory.round != round_:
            raise self._refusal(f"it got a request for round {round_} after round {self.memory.round} had begun")
        if self.memory.cohort != cohort:
            raise self._refusal(f"the cohort had {self.memory.cohort} clients, and is said to have {cohort} now")

    def advertise(self) -> PublicKeys:
        """Stage 0: return both public keys."""
        self._check_turn("advertise")
        self.memory = replace(self.memory, stage=1)
        return PublicKeys(public_key(self._mask_key), public_key(self._seal_key))

    def share(self, neighbours: NeighbourKeys) -> SealedShares:
        """Stage 1: return the shares of the secrets, sealed for each neighbour, and the commitments to them."""
        self._check_turn("share")
        self._check_neighbours(neighbours)
        shares = self._shares([self._client, *neighbours.seal_keys])
        sealed = {
            neighbour: encrypt(self._channel(self._client, neighbour, public), self._plaintext(shares[neighbour]))
            for neighbour, public in neighbours.seal_keys.items()
        }
        self.memory = replace(self.memory, stage=2, mask_keys=neighbours.mask_keys, seal_keys=neighbours.seal_keys)
        commitments = {holder: self._commitments(_point(holder), values) for holder, values in shares.items()}
        return SealedShares(sealed, commitments, self._commitments(_SECRET_POINT, self._values()))

    def upload(self, vector: Tensor, forwarded: ForwardedShares) -> Tensor:
        """Stage 2: return the masked vector.

        Args:
            vector: int64, shape (P,), with entries in [0, 2**modulus_bits).
            forwarded: sealed shares of the remaining neighbours.
        """
        self._check_turn("upload")
        check_element(vector, self._config.modulus_bits)
        strangers = set(forwarded.sealed_shares) - set(self.memory.seal_keys)
        if strangers:
            raise self._refusal(f"shares came from clients {sorted(strangers)}, which are not neighbours")
        self._check_holders(len(forwarded.sealed_shares) + 1)
        bits = self._config.modulus_bits
        masked = self._self_masked(vector, forwarded.sealed_shares)
        for neighbour in forwarded.sealed_shares:
            seed = _pairwise_seed(
                self._mask_key, self.memory.mask_keys[neighbour], self._round, self._client, neighbour
            )
            masked = reduce(masked + _sign(self._client, neighbour) * mask(seed, len(vector), bits), bits)
        self.memory = replace(self.memory, stage=3, sealed_shares=forwarded.sealed_shares)
        return masked

    def reveal(self, request: UnmaskRequest) -> RevealedShares:
        """Stage 3: return the shares of the survivors' self-masks and of the dropped neighbours' mask keys."""
        self._check_turn("reveal")
        self._check_request(request)
        halves = {sender: self._open(sender, sealed) for sender, sealed in self.memory.sealed_shares.items()}
        self_masks = {self._client: self._shares([self._client])[self._client]["self-mask"]}
        self_masks |= {survivor: halves[survivor][0] for survivor in request.survivors if survivor != self._client}
        self.memory = Memory(self._round, self.memory.cohort, len(MaskingClient.stages))
        return RevealedShares(self_masks, {dropped: halves[dropped][1] for dropped in request.dropped_clients})

    def _values(self) -> dict[Secret, bytes]:
        return {"self-mask": self._self_mask, "mask key": self._mask_key}

    def _shares(self, holders: Sequence[int]) -> dict[int, dict[Secret, bytes]]:
        points = [_point(holder) for holder in holders]
        shares: dict[Secret, dict[int, bytes]] = {
            secret: shamir.shares(value, self._holders_needed, points, self._polynomials[secret])
            for secret, value in self._values().items()
        }
        return {holder: {secret: shares[secret][_point(holder)] for secret in shares} for holder in holders}

    def _commitments(self, point: int, values: Mapping[Secret, bytes]) -> bytes:
        return b"".join(commit(secret, self._round, self._client, point, value) for secret, value in values.items())

    def _plaintext(self, shares: Mapping[Secret, bytes]) -> bytes:
        """Return the message that is sealed for the holder of these shares."""
        return b"".join(shares.values())

    def _self_masked(self, vector: Tensor, _sealed: Mapping[int, bytes]) -> Tensor:
        """Return the vector plus the client's self-mask, given the received sealed shares."""
        return reduce(vector + mask(self._self_mask, len(vector), self._config.modulus_bits), self._config.modulus_bits)

    def _open(self, sender: int, sealed: bytes) -> tuple[bytes, ...]:
        """Return the decrypted plaintext of a neighbour, cut into shares; a further part, if any, comes last."""
        plaintext = decrypt(self._channel(sender, self._client, self.memory.seal_keys[sender]), sealed)
        cuts = range(0, len(plaintext), shamir.SHARE_BYTES)
        return tuple(plaintext[cut : cut + shamir.SHARE_BYTES] for cut in cuts)

    def _channel(self, sender: int, recipient: int, public: bytes) -> bytes:
        # A key per direction and round, so each key seals a single message.
        return agree_on_key(self._seal_key, public, f"shares/{self._round}/{sender}/{recipient}")

    def _check_turn(self, stage: str) -> None:
        due = self.stages[self.memory.stage] if self.memory.stage < len(self.stages) else "nothing more"
        if due != stage:
            raise self._refusal(f"it got a request for stage '{stage}', expected '{due}'")

    def _check_neighbours(self, neighbours: NeighbourKeys) -> None:
        if set(neighbours.mask_keys) != set(neighbours.seal_keys) or self._client in neighbours.mask_keys:
            raise self._refusal("it needs both keys of every neighbour, and none of its own")
        public = [*neighbours.mask_keys.values(), *neighbours.seal_keys.values()]
        if len(set(public)) != len(public):
            raise self._refusal("two of its neighbours' public keys are the same")
        holders = len(neighbours.seal_keys) + 1
        if holders > self._neighbourhood:
            # With more holders, two disjoint groups of them could open both secrets.
            raise self._refusal(f"{holders} clients would hold its secrets, expected at most {self._neighbourhood}")
        self._check_holders(holders)

    def _check_request(self, request: UnmaskRequest) -> None:
        survivors, dropped = set(request.survivors), set(request.dropped_clients)
        if survivors & dropped:
            raise self._refusal(f"clients {sorted(survivors & dropped)} cannot both have uploaded and dropped out")
        if self._client not in survivors:
            raise self._refusal("it uploaded, but is not among the survivors")
        known = {self._client, *self.memory.sealed_shares}
        if survivors | dropped != known:
            raise self._refusal(
                f"the request names clients {sorted(survivors | dropped)}, but shares were exchanged with "
                f"{sorted(known)}"
            )
        self._check_holders(len(survivors))

    def _check_holders(self, holders: int) -> None:
        if holders < self._holders_needed:
            raise self._refusal(
                f"{holders} clients of its neighbourhood are left, fewer than the {self._holders_needed} that are "
                "needed to open a secret"
            )

    def _refusal(self, why: str) -> FedsimError:
        return FedsimError(f"client {self._client} refuses to go on with the secure aggregation: {why}.")


class UnmaskingServer:
    """The server in a round. Call its methods in the order of the stages, with the answers that arrived in time.

    An invalid answer counts as a missing answer, so a client can spoil nothing but its own part.

    Attributes:
        rejected: reason for the rejection of an answer, by client.
    """

    secrets: ClassVar[tuple[Secret, ...]] = SECRETS
    further_sealed: ClassVar[int] = 0  # bytes that a client seals for each neighbour in addition to its shares

    def __init__(self, seed: int, round_: int, cohort: Sequence[int], config: SecureAggregation) -> None:
        """Take the cohort's client numbers; the seed draws the neighbours."""
        check_cohort(len(cohort))
        self._seed = seed
        self._round = round_
        self._cohort = tuple(cohort)
        self._config = config
        self._keys: dict[int, PublicKeys] = {}
        self._neighbours: dict[int, tuple[int, ...]] = {}
        self._shared: dict[int, SealedShares] = {}
        self._uploaded: set[int] = set()
        self._masked_total: Tensor | None = None
        self.rejected: dict[int, str] = {}

    def introduce(self, advertised: Mapping[int, PublicKeys]) -> dict[int, NeighbourKeys]:
        """Stage 0 to 1: return, for every client that advertised keys, its neighbours' keys.

        Raises:
            Aborted: fewer clients than the threshold.
            FedsimError: keys came from a client outside the cohort.
        """
        seen = Counter(key for keys in advertised.values() for key in (keys.mask_key, keys.seal_key))
        self._keys = self._usable(advertised, self._cohort, lambda _client, keys: _check_keys(keys, seen))
        self._check_survivors(self._keys, "advertised keys")
        generator = seeding.generator(self._seed, "secure-aggregation-graph", self._round)
        self._neighbours = neighbourhoods(sorted(self._keys), self._config.neighbours, generator)
        return {
            client: NeighbourKeys(
                {n: self._keys[n].mask_key for n in neighbours}, {n: self._keys[n].seal_key for n in neighbours}
            )
            for client, neighbours in self._neighbours.items()
        }

    def forward(self, shared: Mapping[int, SealedShares]) -> dict[int, ForwardedShares]:
        """Stage 1 to 2: return, for every client that shared secrets, the sealed shares for it.

        Raises:
            Aborted: fewer clients than the threshold, in the cohort or in a neighbourhood.
            FedsimError: shares came from a client that advertised no keys.
        """
        self._shared = sent = self._usable(shared, self._keys, self._check_sealed)
        self._check_survivors(sent, "shared their secrets")
        self._check_neighbourhoods(sent, set(sent))
        return {
            client: ForwardedShares({n: sent[n].sealed_shares[client] for n in self._neighbours[client] if n in sent})
            for client in sorted(sent)
        }

    def ask(self, uploads: Mapping[int, Tensor]) -> dict[int, UnmaskRequest]:
        """Stage 2 to 3: return, for every client that uploaded, the clients for which it must reveal shares.

        Raises:
            Aborted: fewer clients than the threshold, in the cohort or in a neighbourhood.
            FedsimError: uploads differ in length, or came from a client that sent no shares.
        """
        uploads = self._usable(uploads, self._shared, self._check_upload)
        self._check_survivors(uploads, "uploaded")
        self._uploaded = set(uploads)
        self._check_neighbourhoods(self._shared, self._uploaded)
        self._masked_total = modular_sum(uploads.values(), self._config.modulus_bits)
        return {client: self._request(client) for client in sorted(uploads)}

    def unmask(self, revealed: Mapping[int, RevealedShares]) -> Aggregate:
        """Stage 3: return the sum.

        Raises:
            Aborted: fewer clients than the threshold, in the cohort or in a neighbourhood, or shares that do not open a
                secret.
            FedsimError: shares came from a client that did not upload.
        """
        self_masked, answers = self._remove_dropped(revealed)
        total = self._remove_own_masks("self-mask", self_masked, self._uploaded, answers)
        return Aggregate(total, tuple(sorted(self._uploaded)))

    def _remove_dropped(self, revealed: Mapping[int, RevealedShares]) -> tuple[Tensor, dict[int, RevealedShares]]:
        """Return the sum of the uploads without pairwise masks of dropped clients, and the answers by client."""
        if self._masked_total is None:
            raise FedsimError("no sum to unmask: collect the uploads first, with `ask`.")
        answers, total = self._answers(revealed), self._masked_total
        mask_keys = {c: answer.mask_keys for c, answer in answers.items()}
        for dropped in sorted(set(self._shared) - self._uploaded):
            total = self._remove_pairwise_masks(total, dropped, self._open_secret("mask key", mask_keys, dropped))
        return total, answers

    def _answers(self, revealed: Mapping[int, RevealedShares]) -> dict[int, RevealedShares]:
        answers = self._usable(revealed, self._uploaded, self._check_revealed)
        self._check_survivors(answers, "revealed shares")
        self._check_neighbourhoods(self._shared, set(answers))
        return answers

    def _remove_own_masks(
        self, secret: Secret, total: Tensor, owners: Iterable[int], answers: Mapping[int, RevealedShares]
    ) -> Tensor:
        bits = self._config.modulus_bits
        revealed = {c: answer.self_masks for c, answer in answers.items()}
        for owner in sorted(owners):
            seed = self._open_secret(secret, revealed, owner)
            total = reduce(total - mask(seed, len(total), bits), bits)
        return total

    def _request(self, client: int) -> UnmaskRequest:
        known = sorted({client, *self._neighbours[client]} & set(self._shared))
        return UnmaskRequest(
            tuple(c for c in known if c in self._uploaded), tuple(c for c in known if c not in self._uploaded)
        )

    def _open_secret(self, secret: Secret, revealed: Mapping[int, Mapping[int, bytes]], owner: int) -> bytes:
        """Return the secret of an owner from the shares that holders revealed.

        Raises:
            Aborted: too few shares match their commitments, or the opened secret does not match its commitment.
        """
        values = {holder: shares[owner] for holder, shares in revealed.items() if owner in shares}
        wrong = sorted(h for h in values if not self._is_committed(secret, owner, h, values[h]))
        shares = [shamir.Share(_point(h), value) for h, value in values.items() if h not in wrong]
        needed = self._config.holders_needed(len(self._cohort))
        if len(shares) < needed:
            raise Aborted(
                f"secure aggregation aborted: of client {owner}'s {secret}, clients {wrong} revealed shares that "
                f"client {owner} did not commit to, and only {len(shares)} shares are left, but {needed} are needed."
            )
        opened = shamir.reconstruct(shares, needed)
        if not self._is_committed(secret, owner, None, opened):
            raise Aborted(
                f"secure aggregation aborted: the shares of client {owner}'s {secret} give another secret than "
                f"client {owner} committed to."
            )
        for holder in wrong:
            self.rejected[holder] = f"its share of client {owner}'s {secret} is not the committed share."
        return opened

    def _is_committed(self, secret: Secret, owner: int, holder: int | None, value: bytes) -> bool:
        """Return whether the owner committed to the value as the holder's share, or as the secret if holder is None."""
        sent = self._shared[owner]
        commitments = sent.secret_commitments if holder is None else sent.share_commitments[holder]
        begin = DIGEST_BYTES * self.secrets.index(secret)
        point = _SECRET_POINT if holder is None else _point(holder)
        return commitments[begin : begin + DIGEST_BYTES] == commit(secret, self._round, owner, point, value)

    def _remove_pairwise_masks(self, total: Tensor, dropped: int, mask_key: bytes) -> Tensor:
        if public_key(mask_key) != self._keys[dropped].mask_key:
            raise Aborted(
                f"secure aggregation aborted: the revealed shares give a mask key that client {dropped} never "
                "advertised."
            )
        bits = self._config.modulus_bits
        for survivor in self._uploaded.intersection(self._neighbours[dropped]):
            seed = _pairwise_seed(mask_key, self._keys[survivor].mask_key, self._round, dropped, survivor)
            total = reduce(total - _sign(survivor, dropped) * mask(seed, len(total), bits), bits)
        return total

    def _usable(
        self, answers: Mapping[int, _Answer], expected: Iterable[int], check: Callable[[int, _Answer], None]
    ) -> dict[int, _Answer]:
        """Return the answers that pass a check, and record why the others are rejected."""
        self._check_known(answers, expected)
        usable: dict[int, _Answer] = {}
        for client, answer in answers.items():
            try:
                check(client, answer)
                usable[client] = answer
            except FedsimError as error:
                self.rejected[client] = str(error)
        return usable

    def _check_sealed(self, client: int, shares: SealedShares) -> None:
        if set(shares.sealed_shares) != set(self._neighbours[client]):
            raise FedsimError("it must seal shares for exactly its neighbours.")
        if set(shares.share_commitments) != {client, *self._neighbours[client]}:
            raise FedsimError("it must commit to exactly the shares of all holders, itself included.")
        secrets = len(self.secrets)
        check_lengths(shares.sealed_shares, secrets * shamir.SHARE_BYTES + self.further_sealed + TAG_BYTES)
        check_lengths(shares.share_commitments, secrets * DIGEST_BYTES)
        check_lengths({client: shares.secret_commitments}, secrets * DIGEST_BYTES)

    def _check_upload(self, _client: int, upload: Tensor) -> None:
        check_element(upload, self._config.modulus_bits)

    def _check_revealed(self, client: int, shares: RevealedShares) -> None:
        request = self._request(client)
        if set(shares.self_masks) != set(request.survivors) or set(shares.mask_keys) != set(request.dropped_clients):
            raise FedsimError("it must reveal exactly the requested shares.")
        check_lengths({**shares.self_masks, **shares.mask_keys}, shamir.SHARE_BYTES)

    def _check_known(self, senders: Iterable[int], expected: Iterable[int]) -> None:
        strangers = set(senders) - set(expected)
        if strangers:
            raise FedsimError(
                f"secure aggregation got answers from clients {sorted(strangers)}, which take no part in this stage."
            )

    def _check_survivors(self, survivors: Iterable[int], deed: str) -> None:
        check_survivors(len(set(survivors)), len(self._cohort), self._config, deed)

    def _check_neighbourhoods(self, owners: Iterable[int], holders: set[int]) -> None:
        needed = self._config.holders_needed(len(self._cohort))
        for owner in sorted(owners):
            left = len(holders.intersection((owner, *self._neighbours[owner])))
            if left < needed:
                raise Aborted(
                    f"secure aggregation aborted: {left} clients of the neighbourhood of client {owner} are left, but "
                    f"{needed} are needed to open its secrets. Raise 'neighbours' ({self._config.neighbours}), lower "
                    f"the threshold ({self._config.threshold:g}, above 0.5), or let fewer clients drop out."
                )


def _check_keys(keys: PublicKeys, seen: Mapping[bytes, int]) -> None:
    for key in (keys.mask_key, keys.seal_key):
        check_public_key(key)
        if seen[key] > 1:
            raise FedsimError("its public key was sent more than once.")


def check_lengths(values: Mapping[int, bytes], expected: int) -> None:
    """Raise FedsimError if a value does not have the expected number of bytes."""
    wrong = next((value for value in values.values() if len(value) != expected), None)
    if wrong is not None:
        raise FedsimError(f"a share or commitment has {len(wrong)} bytes, expected {expected}.")


def _point(client: int) -> int:
    return client + 1  # the secret is the value at `_SECRET_POINT`


def _sign(client: int, neighbour: int) -> int:
    return 1 if neighbour > client else -1


def _pairwise_seed(private: bytes, public: bytes, round_: int, client: int, neighbour: int) -> bytes:
    low, high = sorted((client, neighbour))
    return agree_on_key(private, public, f"mask/{round_}/{low}/{high}")


def neighbourhoods(
    clients: Sequence[int], neighbours: int | None, generator: torch.Generator
) -> dict[int, tuple[int, ...]]:
    """Return each client's neighbours, ascending and without itself; the relation is symmetric.

    Args:
        clients: distinct client numbers.
        neighbours: an even k: clients on a random ring are joined to the k / 2 next clients on either side (Bell et al.
            2020, section 3). None, or k of at least all others: all clients are joined.
        generator: draws the order of the ring.
    """
    size = len(clients)
    if neighbours is None or neighbours >= size - 1:
        return {client: tuple(sorted(set(clients) - {client})) for client in clients}
    order = [clients[i] for i in torch.randperm(size, generator=generator).tolist()]
    offsets = [offset for offset in range(-(neighbours // 2), neighbours // 2 + 1) if offset != 0]
    return {
        client: tuple(sorted(order[(place + offset) % size] for offset in offsets))
        for place, client in enumerate(order)
    }
