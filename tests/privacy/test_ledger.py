"""What is written before a round counts after it, whoever writes, dies or changes the file."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from fedsim.core.errors import FedsimError
from fedsim.core.types import Mechanism
from fedsim.privacy.accounting import Spent, epsilon
from fedsim.privacy.ledger import Allowance, BudgetSpent, Ledger, open_reservations

DELTA = 1e-5
NOISE = Mechanism("client", "replace", 2.0, 1.0, 1, DELTA, "the server")
MUCH = Allowance(100.0, DELTA)


def places(folder: Path) -> tuple[Path, Path]:
    return folder / "ledger.jsonl", folder / "ledger.key"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(*places(tmp_path))


def reserve(ledger: Ledger, allowance: Allowance = MUCH, mechanism: Mechanism = NOISE, subject: str = "ward") -> int:
    return ledger.reserve(subject, [mechanism], allowance, {"run": "7"})


def test_a_new_ledger_is_empty_and_only_its_owner_reads_it(tmp_path: Path, ledger: Ledger) -> None:
    assert ledger.entries() == ()
    assert ledger.spent("ward", DELTA).value == 0.0
    assert [path.stat().st_mode & 0o777 for path in places(tmp_path)] == [0o600, 0o600]


def test_rounds_add_up_as_the_accountant_says_over_runs_and_restarts(tmp_path: Path, ledger: Ledger) -> None:
    reserve(ledger)
    again = Ledger.open(*places(tmp_path))
    reserve(again, mechanism=replace(NOISE, noise_multiplier=3.0))
    assert ledger.spent("ward", DELTA) == epsilon([Spent(2.0, 1.0, 1), Spent(3.0, 1.0, 1)], DELTA)
    assert ledger.spent("another ward", DELTA).value == 0.0


def test_an_entry_says_what_it_was_given(ledger: Ledger) -> None:
    assert reserve(ledger) == 1
    (entry,) = ledger.entries()
    assert (entry.number, entry.kind, entry.subject, entry.unit, entry.adjacency) == (
        1, "reserved", "ward", "client", "replace",
    )  # fmt: skip
    assert entry.spent == (Spent(2.0, 1.0, 1),)
    assert entry.about == {"run": "7"}


def test_a_round_that_costs_too_much_is_refused_before_it_and_not_written(ledger: Ledger) -> None:
    one, two = (epsilon([Spent(2.0, 1.0, steps)], DELTA).value for steps in (1, 2))
    allowance = Allowance((one + two) / 2, DELTA)
    reserve(ledger, allowance)
    with pytest.raises(BudgetSpent, match=f"spent epsilon {one:.4g} at delta 1e-05, .* {two:.4g} after this round"):
        reserve(ledger, allowance)
    assert len(ledger.entries()) == 1
    reserve(ledger, allowance, subject="another ward")


FIGURES = {
    "noise_multiplier": (math.nan, math.inf, 1e300, -2.0, -0.5, 1.1e9),
    "sampling_rate": (math.nan, math.inf, 1e300, -0.1, 1.01),
    "steps": (math.nan, math.inf, 1e300, 10**400, -1),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in FIGURES.items() for value in values])
def test_a_figure_outside_of_its_range_is_refused_and_not_written(ledger: Ledger, name: str, value: float) -> None:
    before = reserve(ledger)
    with pytest.raises(FedsimError, match=f"{name.replace('_', ' ')}.* of a private step is .*, expected a number"):
        reserve(ledger, mechanism=replace(NOISE, **{name: value}))
    assert [entry.number for entry in ledger.entries()] == [before]


@pytest.mark.parametrize(
    ("allowance", "sentence"),
    [
        (Allowance(math.nan, DELTA), "may spend epsilon nan, expected a finite number"),
        (Allowance(math.inf, DELTA), "may spend epsilon inf"),
        (Allowance(-1.0, DELTA), "may spend epsilon -1"),
        (Allowance(1.0, math.nan), "delta is nan"),
        (Allowance(1.0, 0.0), "delta is 0"),
        (Allowance(1.0, 1.0), "delta is 1,"),
        (Allowance(1.0, -1e-5), "delta is -1e-05"),
    ],
)
def test_an_allowance_outside_of_its_range_is_refused(ledger: Ledger, allowance: Allowance, sentence: str) -> None:
    with pytest.raises(FedsimError, match=sentence):
        reserve(ledger, allowance)
    assert ledger.entries() == ()


@pytest.mark.parametrize("noise", [0.0, 1e-300, 1e-160, 1e-10, 5e-324])
def test_next_to_no_noise_costs_more_than_any_budget(ledger: Ledger, noise: float) -> None:
    with pytest.raises(BudgetSpent):
        reserve(ledger, Allowance(1e300, DELTA), replace(NOISE, noise_multiplier=noise))


@pytest.mark.parametrize("noise", [1e9, 1e6])
def test_much_noise_is_within_range(ledger: Ledger, noise: float) -> None:
    assert reserve(ledger, mechanism=replace(NOISE, noise_multiplier=noise)) == 1


@pytest.mark.parametrize("is_key", [True, False])
def test_a_pipe_is_no_ledger_and_no_key(tmp_path: Path, ledger: Ledger, is_key: bool) -> None:
    path = places(tmp_path)[is_key]
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(FedsimError, match=f"{path} is no regular file"):
        Ledger.open(*places(tmp_path))
    if not is_key:
        with pytest.raises(FedsimError, match=f"{path} is no regular file"):
            reserve(ledger)


def test_a_reservation_counts_before_and_after_it_is_settled(ledger: Ledger) -> None:
    number = reserve(ledger)
    before = ledger.spent("ward", DELTA)
    assert open_reservations(ledger.entries()) == {1}
    ledger.settle(number)
    assert ledger.spent("ward", DELTA) == before
    assert open_reservations(ledger.entries()) == set()
    with pytest.raises(FedsimError, match="no open reservation 1"):
        ledger.settle(number)


def test_neighbours_of_two_kinds_are_not_added_up(ledger: Ledger) -> None:
    reserve(ledger)
    record = replace(NOISE, unit="record", adjacency="add-or-remove")
    with pytest.raises(FedsimError, match=r"differ in a client \(replace\) and in a record \(add-or-remove\)"):
        reserve(ledger, mechanism=record)
    reserve(ledger, mechanism=record, subject="ward, by record")


def test_a_round_without_mechanism_is_refused(ledger: Ledger) -> None:
    with pytest.raises(FedsimError, match="no mechanism"):
        ledger.reserve("ward", [], MUCH, {})


def test_a_line_that_a_kill_cut_off_anywhere_is_left_out_and_said(tmp_path: Path, ledger: Ledger) -> None:
    path, key = places(tmp_path)
    reserve(ledger)
    whole = path.stat().st_size
    reserve(ledger)
    content = path.read_bytes()
    for end in range(whole + 1, len(content), 5):
        path.write_bytes(content[:end])
        opened = Ledger.open(path, key)
        assert [entry.kind for entry in opened.entries()] == ["reserved"]
        assert reserve(opened) == 3
        assert [entry.kind for entry in Ledger.open(path, key).entries()] == ["reserved", "cut", "reserved"]


@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_changed_a_missing_and_a_moved_line_are_seen(tmp_path: Path, ledger: Ledger, line: int) -> None:
    path, key = places(tmp_path)
    for _ in range(4):
        reserve(ledger)
    lines = path.read_bytes().splitlines(keepends=True)
    changed = [*lines[:line], lines[line].replace(b'"steps":1', b'"steps":0'), *lines[line + 1 :]]
    missing = [*lines[:line], *lines[line + 1 :]]
    moved = [*lines[:line], lines[line + 1], lines[line], *lines[line + 2 :]]
    for bad in (changed, missing, moved):
        path.write_bytes(b"".join(bad))
        with pytest.raises(FedsimError, match=f"line {line + 1} was not written with this ledger's key"):
            Ledger.open(path, key)


def test_who_read_lines_misses_them_at_the_end(tmp_path: Path, ledger: Ledger) -> None:
    path, key = places(tmp_path)
    reserve(ledger)
    first = path.read_bytes()
    reserve(ledger)
    path.write_bytes(first)
    with pytest.raises(FedsimError, match="has 1 lines, and had 2 before"):
        reserve(ledger)
    reserve(Ledger.open(path, key), subject="another ward")
    with pytest.raises(FedsimError, match="line 2 was changed"):
        ledger.entries()


def test_another_key_and_a_key_that_others_may_read_are_refused(tmp_path: Path, ledger: Ledger) -> None:
    path, key = places(tmp_path)
    reserve(ledger)
    right = key.read_text()
    key.write_text("0" * 64)
    with pytest.raises(FedsimError, match="line 1 was not written with this ledger's key"):
        Ledger.open(path, key)
    key.write_text(right[:10])
    with pytest.raises(FedsimError, match="holds 10 characters, expected a key of 64"):
        Ledger.open(path, key)
    key.write_text(right)
    key.chmod(0o640)
    with pytest.raises(FedsimError, match=f"chmod 600 {key}"):
        Ledger.open(path, key)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_ledger_without_key_and_a_key_without_ledger_are_no_new_ledger(
    tmp_path: Path, ledger: Ledger, lost: int
) -> None:
    reserve(ledger)
    places(tmp_path)[lost].unlink()
    with pytest.raises(FedsimError, match="is missing. Restore it"):
        Ledger.open(*places(tmp_path))


FORKED = multiprocessing.get_context("forkserver")  # commands of other tests share its server, which has loaded all


def spend(folder: Path, budget: float, said: Connection, both: Barrier) -> None:
    """Spend as much as there is, and say the number of each entry at once."""
    ledger = Ledger.open(*places(folder))
    both.wait()
    with contextlib.suppress(BudgetSpent):
        while True:
            said.send(ledger.reserve("ward", [NOISE], Allowance(budget, DELTA), {}))


@contextlib.contextmanager
def spending(folder: Path, budget: float) -> Iterator[tuple[list[BaseProcess], Connection]]:
    """Have two processes spend at the same time, and return what they say; a short message is sent whole."""
    hears, says = FORKED.Pipe(duplex=False)
    both = FORKED.Barrier(2, timeout=60)
    processes: list[BaseProcess] = [FORKED.Process(target=spend, args=(folder, budget, says, both)) for _ in range(2)]
    for process in processes:
        process.start()
    says.close()
    with hears:
        yield processes, hears
    for process in processes:
        process.kill()
        process.join()


def heard_until_the_end(hears: Connection) -> list[int]:
    numbers = []
    with contextlib.suppress(EOFError):
        while True:
            numbers.append(hears.recv())
    return numbers


def test_two_processes_spend_the_budget_once(tmp_path: Path, ledger: Ledger) -> None:
    budget = epsilon([Spent(2.0, 1.0, 3)], DELTA).value + 1e-6  # of exactly three rounds
    with spending(tmp_path, budget) as (_, hears):
        assert sorted(heard_until_the_end(hears)) == [1, 2, 3]
    assert len(ledger.entries()) == 3


def test_a_kill_loses_nothing_that_was_said_to_be_written(tmp_path: Path) -> None:
    Ledger.open(*places(tmp_path))
    with spending(tmp_path, 1e9) as (processes, hears):
        said = [hears.recv() for _ in range(5)]
        for process in processes:
            process.kill()
        said += heard_until_the_end(hears)
    entries = Ledger.open(*places(tmp_path)).entries()
    assert {entry.number for entry in entries} >= set(said)


def test_a_line_holds_an_entry_that_people_can_read(tmp_path: Path, ledger: Ledger) -> None:
    reserve(ledger)
    text = places(tmp_path)[0].read_text().splitlines()[0].partition(" ")[2]
    assert json.loads(text)["spent"] == [{"noise_multiplier": 2.0, "sampling_rate": 1.0, "steps": 1}]
