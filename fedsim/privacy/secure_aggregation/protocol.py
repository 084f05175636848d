"""The two sides of SecAgg and SecAgg+: four stages between many `MaskingClient`s and one `UnmaskingServer`.

    stage  client                        server
    0      advertise   public keys    -> introduce   who is whose neighbour
    1      share       sealed shares  -> forward     to the neighbours
    2      upload      masked vector  -> ask         who uploaded, who did not
    3      reveal      shares         -> unmask      the sum

Client i uploads, modulo 2**modulus_bits,

    x_i + PRG(b_i) + sum over j > i of PRG(s_ij) - sum over j < i of PRG(s_ij),

where j runs over the neighbours that sent shares. Pairwise masks cancel in the sum. For a survivor, its neighbours
reveal shares of b_i; for a client that dropped out before its upload they reveal shares of its mask key, from which the
server computes and removes its pairwise masks. No client reveals both for one client: together they would unmask an
upload that is only late.

Papers: Bonawitz et al. 2017 (ePrint 2017/281), Bell et al. 2020 (ePrint 2020/704).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar, TypeVar

from torch import Tensor

from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.privacy.secure_aggregation import shamir
from fedsim.privacy.secure_aggregation.config import SecureAggregation
from fedsim.privacy.secure_aggregation.graph import neighbourhoods
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

_Answer = TypeVar("_Answer")


class MaskingClient:
    """One client in one round. Its secrets follow from (seed, round, client); all other state is in `memory`.

    Every method is one stage and answers once. It raises FedsimError where it is called out of order, or where an
    answer would reveal this or another client's vector.
    """

    stages: ClassVar[tuple[str, ...]] = ("advertise", "share", "upload", "reveal")

    def __init__(
        self, seed: int, round_: int, client: int, cohort: int, config: SecureAggregation, memory: Memory | None = None
    ) -> None:
        """Join a cohort of `cohort` clients, with the memory of earlier stages.

        Memory of an earlier round, which this client did not finish, is dropped.

        Raises:
            FedsimError: a later round has begun, so this one would use its masks again; or the cohort had another size
                before, on which depends who can open a secret.
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
        self._mask_key_polynomial = derive_secret(seed, "polynomial of the mask key", round_, client)
        self._self_mask_polynomial = derive_secret(seed, "polynomial of the self-mask", round_, client)
        self.memory = memory if memory and memory.round >= round_ else Memory(round_, cohort)
        if self.memory.round != round_:
            raise self._refusal(f"it was asked for round {round_} when round {self.memory.round} has begun")
        if self.memory.cohort != cohort:
            raise self._refusal(f"the cohort had {self.memory.cohort} clients, and is said to have {cohort} now")

    def advertise(self) -> PublicKeys:
        """Stage 0: return both public keys."""
        self._check_turn("advertise")
        self.memory = replace(self.memory, stage=1)
        return PublicKeys(public_key(self._mask_key), public_key(self._seal_key))

    def share(self, neighbours: NeighbourKeys) -> SealedShares:
        """Stage 1: return, sealed for each neighbour, shares of the self-mask's seed and of the mask key."""
        self._check_turn("share")
        self._check_neighbours(neighbours)
        points = [_point(neighbour) for neighbour in neighbours.seal_keys]
        plaintexts = self._plaintexts(points)
        shares = {
            neighbour: encrypt(self._channel(self._client, neighbour, public), plaintexts[point])
            for (neighbour, public), point in zip(neighbours.seal_keys.items(), points, strict=True)
        }
        self.memory = replace(self.memory, stage=2, mask_keys=neighbours.mask_keys, seal_keys=neighbours.seal_keys)
        return SealedShares(shares)

    def upload(self, vector: Tensor, forwarded: ForwardedShares) -> Tensor:
        """Stage 2: return the masked vector.

        Args:
            vector: int64, shape (P,), with entries in [0, 2**modulus_bits).
            forwarded: sealed shares of the remaining neighbours.
        """
        self._check_turn("upload")
        check_element(vector, self._config.modulus_bits)
        strangers = set(forwarded.sealed) - set(self.memory.seal_keys)
        if strangers:
            raise self._refusal(f"shares came from clients {sorted(strangers)}, which are not neighbours")
        self._check_holders(len(forwarded.sealed) + 1)
        bits = self._config.modulus_bits
        masked = self._self_masked(vector, forwarded.sealed)
        for neighbour in forwarded.sealed:
            seed = _pairwise_seed(
                self._mask_key, self.memory.mask_keys[neighbour], self._round, self._client, neighbour
            )
            masked = reduce(masked + _sign(self._client, neighbour) * mask(seed, len(vector), bits), bits)
        self.memory = replace(self.memory, stage=3, sealed=forwarded.sealed)
        return masked

    def reveal(self, request: UnmaskRequest) -> RevealedShares:
        """Stage 3: return the shares of the survivors' self-masks and of the dropped neighbours' mask keys."""
        self._check_turn("reveal")
        self._check_request(request)
        halves = {sender: self._open(sender, sealed) for sender, sealed in self.memory.sealed.items()}
        shares = shamir.shares(
            self._self_mask, self._holders_needed, [_point(self._client)], self._self_mask_polynomial
        )
        self_masks = {self._client: shares[_point(self._client)]}
        self_masks |= {survivor: halves[survivor][0] for survivor in request.survivors if survivor != self._client}
        self.memory = Memory(self._round, self.memory.cohort, len(MaskingClient.stages))
        return RevealedShares(self_masks, {dropped: halves[dropped][1] for dropped in request.dropped})

    def _plaintexts(self, points: Sequence[int]) -> dict[int, bytes]:
        """Return what the holder at each point is given: shares of the self-mask's seed and of the mask key."""
        self_mask = shamir.shares(self._self_mask, self._holders_needed, points, self._self_mask_polynomial)
        mask_key = shamir.shares(self._mask_key, self._holders_needed, points, self._mask_key_polynomial)
        return {point: self_mask[point] + mask_key[point] for point in points}

    def _self_masked(self, vector: Tensor, _sealed: Mapping[int, bytes]) -> Tensor:
        """Return the vector with the client's own mask on it, with the sealed shares that came at hand."""
        return reduce(vector + mask(self._self_mask, len(vector), self._config.modulus_bits), self._config.modulus_bits)

    def _open(self, sender: int, sealed: bytes) -> tuple[bytes, ...]:
        """Return what a neighbour sealed for this client, cut into shares; what is no share comes last."""
        plaintext = decrypt(self._channel(sender, self._client, self.memory.seal_keys[sender]), sealed)
        cuts = range(0, len(plaintext), shamir.SHARE_BYTES)
        return tuple(plaintext[cut : cut + shamir.SHARE_BYTES] for cut in cuts)

    def _channel(self, sender: int, recipient: int, public: bytes) -> bytes:
        # One key per direction and round, so it seals one message.
        return agree_on_key(self._seal_key, public, f"shares/{self._round}/{sender}/{recipient}")

    def _check_turn(self, stage: str) -> None:
        due = self.stages[self.memory.stage] if self.memory.stage < len(self.stages) else "nothing more"
        if due != stage:
            raise self._refusal(f"it was asked for '{stage}' when '{due}' is next")

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
        survivors, dropped = set(request.survivors), set(request.dropped)
        if survivors & dropped:
            raise self._refusal(f"clients {sorted(survivors & dropped)} cannot both have uploaded and dropped out")
        if self._client not in survivors:
            raise self._refusal("it uploaded, but is not among the survivors")
        known = {self._client, *self.memory.sealed}
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
    """The server in one round. Call its methods in the order of the stages, with the answers that arrived in time.

    An answer that cannot be used counts as one that never came, so a client can spoil nothing but its own part.

    Attributes:
        rejected: why an answer was not used, by the client that sent it.
    """

    sealed_secrets: ClassVar[int] = 2 * shamir.SHARE_BYTES  # bytes that a client seals for each neighbour

    def __init__(self, seed: int, round_: int, cohort: Sequence[int], config: SecureAggregation) -> None:
        """Take the cohort's client numbers; the seed draws the neighbours."""
        check_cohort(len(cohort))
        self._seed = seed
        self._round = round_
        self._cohort = tuple(cohort)
        self._config = config
        self._keys: dict[int, PublicKeys] = {}
        self._neighbours: dict[int, tuple[int, ...]] = {}
        self._shared: set[int] = set()
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
        sent = self._usable(shared, self._keys, self._check_sealed)
        self._shared = set(sent)
        self._check_survivors(self._shared, "shared their secrets")
        self._check_neighbourhoods(self._shared, self._shared)
        return {
            client: ForwardedShares({n: sent[n].sealed[client] for n in self._neighbours[client] if n in sent})
            for client in sorted(sent)
        }

    def ask(self, uploads: Mapping[int, Tensor]) -> dict[int, UnmaskRequest]:
        """Stage 2 to 3: return, for every client that uploaded, the clients whose shares it must reveal.

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
        self_masked, answers = self._without_dropped(revealed)
        total = self._without_self_masks(self_masked, self._uploaded, answers)
        return Aggregate(total, tuple(sorted(self._uploaded)))

    def _without_dropped(self, revealed: Mapping[int, RevealedShares]) -> tuple[Tensor, dict[int, RevealedShares]]:
        """Return the sum of the uploads, on which only self-masks are left, and the answers of stage 3 by client."""
        if self._masked_total is None:
            raise FedsimError("there is no sum to unmask: collect the uploads first, with `ask`.")
        answers, total = self._answers(revealed), self._masked_total
        for dropped in sorted(self._shared - self._uploaded):
            total = self._without_pairwise_masks(
                total, dropped, self._secret({c: answer.mask_keys for c, answer in answers.items()}, dropped)
            )
        return total, answers

    def _answers(self, revealed: Mapping[int, RevealedShares]) -> dict[int, RevealedShares]:
        answers = self._usable(revealed, self._uploaded, self._check_revealed)
        self._check_survivors(answers, "revealed shares")
        self._check_neighbourhoods(self._shared, set(answers))
        return answers

    def _without_self_masks(
        self, total: Tensor, owners: Iterable[int], answers: Mapping[int, RevealedShares]
    ) -> Tensor:
        bits = self._config.modulus_bits
        for owner in sorted(owners):
            seed = self._secret({c: answer.self_masks for c, answer in answers.items()}, owner)
            total = reduce(total - mask(seed, len(total), bits), bits)
        return total

    def _request(self, client: int) -> UnmaskRequest:
        known = sorted({client, *self._neighbours[client]} & self._shared)
        return UnmaskRequest(
            tuple(c for c in known if c in self._uploaded), tuple(c for c in known if c not in self._uploaded)
        )

    def _secret(self, given: Mapping[int, Mapping[int, bytes]], owner: int) -> bytes:
        """Return the secret of which these shares are, by holder; one of them may be of something else."""
        shares = [shamir.Share(_point(holder), values[owner]) for holder, values in given.items() if owner in values]
        for left_out in (None, *shares):
            with suppress(FedsimError):
                return shamir.reconstruct(
                    [share for share in shares if share is not left_out],
                    self._config.holders_needed(len(self._cohort)),
                )
        raise Aborted(f"secure aggregation aborted: the shares of client {owner} do not open its secret.")

    def _without_pairwise_masks(self, total: Tensor, dropped: int, mask_key: bytes) -> Tensor:
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
        """Return the answers that pass a check, and note why the others do not."""
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
        if set(shares.sealed) != set(self._neighbours[client]):
            raise FedsimError("it must seal shares for each of its neighbours and for nobody else.")
        check_lengths(shares.sealed, self.sealed_secrets + TAG_BYTES)

    def _check_upload(self, _client: int, upload: Tensor) -> None:
        check_element(upload, self._config.modulus_bits)

    def _check_revealed(self, client: int, shares: RevealedShares) -> None:
        request = self._request(client)
        if set(shares.self_masks) != set(request.survivors) or set(shares.mask_keys) != set(request.dropped):
            raise FedsimError("it must reveal the shares that it was asked for and no others.")
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
    """Raise FedsimError where one of the values has another number of bytes."""
    wrong = next((value for value in values.values() if len(value) != expected), None)
    if wrong is not None:
        raise FedsimError(f"a share has {len(wrong)} bytes, expected {expected}.")


def _point(client: int) -> int:
    # The secret is the value at 0.
    return client + 1


def _sign(client: int, neighbour: int) -> int:
    return 1 if neighbour > client else -1


def _pairwise_seed(private: bytes, public: bytes, round_: int, client: int, neighbour: int) -> bytes:
    low, high = sorted((client, neighbour))
    return agree_on_key(private, public, f"mask/{round_}/{low}/{high}")
