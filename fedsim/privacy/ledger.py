"""Ledger of the privacy budget that data subjects have spent across runs, in an authenticated file.

A line is a code and an entry: code = HMAC-SHA256(key, code of the line before + entry). So adding,
changing, moving or removing a line needs the key, except removing whole lines at the end: this is noticed only by a
process that has read them before, or from a note of the last entry's number. A line is on disk before its round is
trained.

A kill truncates at most the last line. Its round was not trained, so the line is dropped, and an entry records that.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from fedsim.core.errors import FedsimError
from fedsim.core.types import Adjacency, Mechanism, Unit
from fedsim.privacy.accounting import Epsilon, Spent, compose_rounds, epsilon
from fedsim.record.atomic_files import io_advice

_KEY_BYTES = 32
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_END, _BETWEEN = b"\n", b" "


class BudgetSpent(FedsimError):
    """A round that would cost a subject more than it may spend; the message has the figures."""


@dataclass(frozen=True)
class Allowance:
    """Total privacy budget of a subject: epsilon at delta."""

    epsilon: float
    delta: float


@dataclass(frozen=True)
class LedgerEntry:
    """A line of a ledger.

    Attributes:
        number: of the entry, from 1.
        at: time in UTC, as ISO 8601.
        kind: `reserved` counts in any case; `settled` marks the regular end of the round; `cut` records that a line
            truncated by a kill was dropped.
        subject: data subject.
        unit: difference of neighbouring data sets; '' if nothing is spent.
        adjacency: relation of neighbouring data sets.
        spent: noisy steps of the round.
        settles: number of the reservation that is settled, 0 for none.
        about: further information, such as run and app.
    """

    number: int
    at: str
    kind: Literal["reserved", "settled", "cut"]
    subject: str = ""
    unit: Unit | Literal[""] = ""
    adjacency: Adjacency | Literal[""] = ""
    spent: tuple[Spent, ...] = ()
    settles: int = 0
    about: Mapping[str, str] = field(default_factory=dict)


class Ledger:
    """A ledger on disk; every call reads and checks the whole file, and several processes may use it at once."""

    def __init__(self, path: Path, key: bytes) -> None:
        self._path, self._key = path, key
        self._last: tuple[int, bytes] = (0, b"")  # number and code of the last line that this process has read

    @classmethod
    def open(cls, path: Path, key: Path) -> Ledger:
        """Return the ledger of a file, verified; create ledger and key if both are missing.

        Args:
            path: of the ledger.
            key: of the file with the key, which only its owner may read.

        Raises:
            FedsimError: only the ledger or only the key exists, others may read the key, or a line was not written with
                this key.
        """
        if path.exists() != key.exists():
            missing, present = (path, key) if key.exists() else (key, path)
            raise FedsimError(
                f"{present} exists, but {missing} is missing. Restore it: without it the spent "
                f"budget is unknown. To start again with nothing spent, move {present} away too."
            )
        if not key.exists():
            with io_advice(path):
                _write_new(key, secrets.token_hex(_KEY_BYTES).encode())
                _write_new(path, b"")
        ledger = cls(path, _read_key(key))
        ledger.entries()
        return ledger

    def entries(self) -> tuple[LedgerEntry, ...]:
        """Return all entries, the oldest first.

        Raises:
            FedsimError: a line was not written with this key, or lines read before are missing.
        """
        with self._lock_file(fcntl.LOCK_SH) as handle:
            return self._read(handle)[0]

    def spent(self, subject: str, delta: float) -> Epsilon:
        """Return the epsilon that a subject has spent at `delta`; unsettled reservations count."""
        return epsilon(_parts(self.entries(), subject), delta)

    def reserve(
        self, subject: str, mechanisms: Sequence[Mechanism], allowance: Allowance, description: Mapping[str, str]
    ) -> int:
        """Record the cost of a round for a subject, before the round is trained, and return the number of the entry.

        Args:
            subject: data subject.
            mechanisms: that run in the round, each once.
            allowance: upper limit of the subject's spending after the round.
            description: kept in the entry.

        Raises:
            BudgetSpent: the subject would have spent more than it may; nothing is written.
            FedsimError: an earlier round of the subject had another unit or adjacency, a mechanism or the allowance is
                out of range, or see `entries`.
        """
        if not 0 <= allowance.epsilon < math.inf:
            raise FedsimError(
                f"'{subject}' may spend epsilon {allowance.epsilon:g}, expected a finite number of at least 0."
            )
        cost = tuple(compose_rounds(mechanism, 1) for mechanism in mechanisms)
        with self._lock_file(fcntl.LOCK_EX) as handle:
            entries, tail = self._read(handle)
            unit, adjacency = _neighbours(entries, subject, mechanisms)
            before = _parts(entries, subject)
            after = epsilon([*before, *cost], allowance.delta).value
            if not after <= allowance.epsilon:
                raise BudgetSpent(
                    f"'{subject}' has spent epsilon {epsilon(before, allowance.delta).value:.4g} at delta "
                    f"{allowance.delta:g}, would have spent {after:.4g} after this round, and may spend "
                    f"{allowance.epsilon:.4g}. Let it spend more, or stop here."
                )
            return self._append(
                handle,
                tail,
                kind="reserved",
                subject=subject,
                unit=unit,
                adjacency=adjacency,
                spent=cost,
                about=dict(description),
            )

    def settle(self, reservation: int) -> None:
        """Record the regular end of a reservation's round.

        Raises:
            FedsimError: the reservation does not exist or is settled; or see `entries`.
        """
        with self._lock_file(fcntl.LOCK_EX) as handle:
            entries, tail = self._read(handle)
            if reservation not in open_reservations(entries):
                raise FedsimError(f"{self._path} has no open reservation {reservation}.")
            self._append(handle, tail, kind="settled", subject=entries[reservation - 1].subject, settles=reservation)

    @contextmanager
    def _lock_file(self, operation: int) -> Iterator[int]:
        """Open and lock the file (`operation`: shared or exclusive)."""
        with io_advice(self._path):
            handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise FedsimError(f"{self._path} is no regular file, expected a ledger. {_ADVICE}")
            fcntl.flock(handle, operation)
            yield handle
        finally:
            os.close(handle)

    def _read(self, handle: int) -> tuple[tuple[LedgerEntry, ...], bytes]:
        """Return the entries, and the bytes of a truncated last line."""
        *lines, tail = os.pread(handle, os.fstat(handle).st_size, 0).split(_END)
        entries: list[LedgerEntry] = []
        code = b""
        for number, line in enumerate(lines, 1):
            code = self._check(number, line, code)
            entries.append(_entry(line.partition(_BETWEEN)[2]))
            if number == self._last[0] and code != self._last[1]:
                raise FedsimError(f"{self._path}: line {number} was changed. {_ADVICE}")
        if len(lines) < self._last[0]:
            raise FedsimError(f"{self._path} has {len(lines)} lines, and had {self._last[0]} before. {_ADVICE}")
        self._last = (len(lines), code)
        return tuple(entries), tail

    def _check(self, number: int, line: bytes, before: bytes) -> bytes:
        """Return the code of a line; raise FedsimError if it is wrong."""
        code, _, text = line.partition(_BETWEEN)
        if not hmac.compare_digest(code, self._code(before, text)):
            raise FedsimError(f"{self._path}: line {number} was not written with this ledger's key. {_ADVICE}")
        return code

    def _append(self, handle: int, tail: bytes, **entry: Any) -> int:
        """Write a line in place of a truncated last line, flushed to disk; return its number."""
        number, code = self._last[0] + 1, self._last[1]
        with io_advice(self._path):
            if tail:
                os.ftruncate(handle, os.fstat(handle).st_size - len(tail))
                number, code = number + 1, self._write(handle, code, number, kind="cut")
            code = self._write(handle, code, number, **entry)
        self._last = (number, code)
        return number

    def _write(self, handle: int, before: bytes, number: int, **entry: Any) -> bytes:
        written = LedgerEntry(number, datetime.now(UTC).isoformat(timespec="seconds"), **entry)
        text = json.dumps(asdict(written), sort_keys=True, separators=(",", ":")).encode()
        code = self._code(before, text)
        line = memoryview(code + _BETWEEN + text + _END)
        while line:
            line = line[os.write(handle, line) :]
        os.fsync(handle)
        return code

    def _code(self, before: bytes, text: bytes) -> bytes:
        return hmac.new(self._key, before + _BETWEEN + text, hashlib.sha256).hexdigest().encode()


_ADVICE = (
    "The file was changed, or belongs to another key. The ledger refuses to spend until it is "
    "restored: look for a copy, and check the write permissions."
)


def open_reservations(entries: Sequence[LedgerEntry]) -> set[int]:
    """Return the numbers of unsettled reservations: their rounds run, or were aborted."""
    reserved = {entry.number for entry in entries if entry.kind == "reserved"}
    return reserved - {entry.settles for entry in entries}


def _parts(entries: Sequence[LedgerEntry], subject: str) -> list[Spent]:
    return [part for entry in entries if entry.subject == subject for part in entry.spent]


def _neighbours(
    entries: Sequence[LedgerEntry], subject: str, mechanisms: Sequence[Mechanism]
) -> tuple[Unit, Adjacency]:
    """Return the common unit and adjacency of a subject's spending: epsilons of different units do not add up."""
    if not mechanisms:
        raise FedsimError(f"a round of '{subject}' has no mechanism, so its privacy loss is unbounded.")
    kinds: list[tuple[Unit, Adjacency]] = [(mechanism.unit, mechanism.adjacency) for mechanism in mechanisms]
    for entry in entries:
        if entry.subject == subject and entry.unit != "" and entry.adjacency != "":
            kinds.append((entry.unit, entry.adjacency))
    if len(set(kinds)) > 1:
        (unit, adjacency), (second_unit, second_adjacency) = sorted(set(kinds))[:2]
        raise FedsimError(
            f"'{subject}' has rounds whose neighbours differ in a {unit} ({adjacency}) and in a "
            f"{second_unit} ({second_adjacency}), which have no common epsilon. Use another subject for either."
        )
    return kinds[0]


def _entry(text: bytes) -> LedgerEntry:
    fields = json.loads(text)
    return LedgerEntry(**{**fields, "spent": tuple(Spent(**part) for part in fields["spent"])})


def _write_new(path: Path, content: bytes) -> None:
    """Create a file, readable by its owner only and flushed to disk; an existing file is an error."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)


def _read_key(path: Path) -> bytes:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise FedsimError(f"{path} is no regular file, expected the key of a ledger. Bring the file back.")
    if mode & _OTHERS:
        raise FedsimError(f"other users can read the key {path}, and so forge entries. Run: chmod 600 {path}")
    key = path.read_bytes().strip()
    if len(key) < 2 * _KEY_BYTES:
        raise FedsimError(f"{path} holds {len(key)} characters, expected a key of {2 * _KEY_BYTES}. Bring it back.")
    return key
