"""What it takes to make the sweep again: the scenario as resolved, its hash, programs and machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fedsim.record import Environment
from fedsim.report.sweep.gathered import Sweep


class Commit(NamedTuple):
    """A state of the repository, and how many records were made in it."""

    name: str | None
    is_dirty: bool
    records: int


class Made(NamedTuple):
    """An environment, the states of the repository that it saw, the most used first, and its number of records."""

    environment: Environment
    commits: tuple[Commit, ...]
    records: int


def environments(sweep: Sweep) -> list[Made]:
    """Return every environment, the most used first; those that differ in the repository alone are one."""
    groups: dict[str, list[tuple[Environment, int]]] = {}
    for text, count in sweep.environments.most_common():
        one = Environment.model_validate_json(text)
        groups.setdefault(one.model_dump_json(exclude={"git_commit", "git_dirty"}), []).append((one, count))
    return sorted(map(_made, groups.values()), key=lambda made: -made.records)


def _made(group: Sequence[tuple[Environment, int]]) -> Made:
    commits = tuple(Commit(one.git_commit, bool(one.git_dirty), count) for one, count in group)
    return Made(group[0][0], commits, sum(count for _, count in group))
