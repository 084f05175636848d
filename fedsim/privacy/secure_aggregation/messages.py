"""Messages of the protocol, and a client's memory between them, as numbers and bytes only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self, get_args, get_origin, get_type_hints

from fedsim.core.errors import FedsimError

ConfigValue = int | bytes | list[int] | list[bytes]


@dataclass(frozen=True)
class _Message:
    """A message; fields are ints, bytes, tuples of client numbers, or bytes by client number."""

    def to_config(self) -> dict[str, ConfigValue]:
        """Return the message as a flat mapping for a Flower ConfigRecord."""
        config: dict[str, ConfigValue] = {}
        for name, value in vars(self).items():
            if isinstance(value, Mapping):
                config[f"{name}.clients"] = list(value)
                config[f"{name}.values"] = list(value.values())
            else:
                config[name] = list(value) if isinstance(value, tuple) else value
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return the message of a mapping from `to_config`.

        Raises:
            FedsimError: an entry is missing, of another type, or names a client twice.
        """
        kinds = get_type_hints(cls)
        return cls(**{field.name: _field(field.name, kinds[field.name], config) for field in fields(cls)})


def _field(name: str, kind: Any, config: Mapping[str, Any]) -> Any:
    if get_origin(kind) is tuple:
        return tuple(_entries(name, int, config))
    if get_origin(kind) is Mapping:
        key, value = get_args(kind)
        clients, values = _entries(f"{name}.clients", key, config), _entries(f"{name}.values", value, config)
        if len(clients) != len(values) or len(set(clients)) != len(clients):
            raise FedsimError(f"the message of the protocol needs a value of '{name}' for each client")
        return dict(zip(clients, values, strict=True))
    return _entry(name, kind, config)


def _entries(name: str, kind: type[Any], config: Mapping[str, Any]) -> list[Any]:
    values = _entry(name, list, config)
    if any(type(value) is not kind for value in values):
        raise FedsimError(f"the message of the protocol needs '{name}' as a list of {kind.__name__}")
    return values


def _entry(name: str, kind: type[Any], config: Mapping[str, Any]) -> Any:
    value = config.get(name)
    if type(value) is not kind:
        raise FedsimError(f"the message of the protocol needs '{name}' as {kind.__name__}")
    return value


@dataclass(frozen=True)
class PublicKeys(_Message):
    """Stage 0, client to server.

    Attributes:
        mask_key: X25519 public key for pairwise masks.
        seal_key: X25519 public key for sealing shares.
    """

    mask_key: bytes
    seal_key: bytes


@dataclass(frozen=True)
class NeighbourKeys(_Message):
    """Stage 1, server to client: both public keys of each neighbour."""

    mask_keys: Mapping[int, bytes]
    seal_keys: Mapping[int, bytes]


@dataclass(frozen=True)
class SealedShares(_Message):
    """Stage 1, client to server.

    Attributes:
        sealed_shares: for each neighbour, sealed shares of the client's secrets.
        share_commitments: for each holder, the client itself included, the concatenated commitments to its shares, in
            the order of the secrets.
        secret_commitments: the commitments to the secrets, in the same order.
    """

    sealed_shares: Mapping[int, bytes]
    share_commitments: Mapping[int, bytes]
    secret_commitments: bytes


@dataclass(frozen=True)
class ForwardedShares(_Message):
    """Stage 2, server to client: its sealed shares, by the neighbour that sent them."""

    sealed_shares: Mapping[int, bytes]


@dataclass(frozen=True)
class UnmaskRequest(_Message):
    """Stage 3, server to client: clients of its neighbourhood (itself included) that uploaded, and that only shared."""

    survivors: tuple[int, ...]
    dropped_clients: tuple[int, ...]


@dataclass(frozen=True)
class RevealedShares(_Message):
    """Stage 3, client to server.

    Attributes:
        self_masks: shares of the self-mask's seed, by survivor.
        mask_keys: shares of the private key for pairwise masks, by dropped client.
    """

    self_masks: Mapping[int, bytes]
    mask_keys: Mapping[int, bytes]


@dataclass(frozen=True)
class MaskedCounts(_Message):
    """Stage 4 of per-element sums, server to client: int64 sum of the survivors' encoded counts."""

    total: bytes


@dataclass(frozen=True)
class Opening(_Message):
    """Stage 4 of per-element sums, client to server.

    Attributes:
        disclosed_elements: elements to disclose, a bit for each element of the update.
        values: self-mask at these elements, and at the entries that are always disclosed, int64.
    """

    disclosed_elements: bytes
    values: bytes


@dataclass(frozen=True)
class Silent(_Message):
    """Stage 5 of such sums, server to client: the clients that uploaded, and opened nothing."""

    clients: tuple[int, ...]


@dataclass(frozen=True)
class Memory(_Message):
    """State of a client between the stages of a round.

    Attributes:
        round: round of this memory.
        cohort: number of clients in the cohort, as reported by the server.
        stage: next stage, from 0.
        mask_keys: its neighbours' public keys for pairwise masks.
        seal_keys: its neighbours' public keys for sealing.
        sealed_shares: sealed shares that it received.
        survivors: clients that uploaded, if later stages need them.
        entries: length of the vector that it uploaded.
    """

    round: int
    cohort: int
    stage: int = 0
    mask_keys: Mapping[int, bytes] = field(default_factory=dict[int, bytes])
    seal_keys: Mapping[int, bytes] = field(default_factory=dict[int, bytes])
    sealed_shares: Mapping[int, bytes] = field(default_factory=dict[int, bytes])
    survivors: tuple[int, ...] = ()
    entries: int = 0
