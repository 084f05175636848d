"""Reproduction section of a sweep's report: resolved scenario, hash, software versions and machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from fedsim.core.source import toml
from fedsim.record import Environment
from fedsim.report.document import Block, Code, Definitions, Fold, Paragraph, paragraph
from fedsim.report.sections.environment import commit_spans, environment_facts
from fedsim.report.sweep.gathered import SweepRecords
from fedsim.report.tables.figures import with_noun

Seen = tuple[Environment, int]
"""An environment, and the number of records made in it."""


def reproduce(sweep: SweepRecords) -> Iterator[Block]:
    """Yield every environment, then hash, seeds and dates of the sweep, and its scenario."""
    for group in environments(sweep):
        yield Code(group[0][0].command)
        yield _environment(group)
    yield Definitions(
        (
            ("Scenario hash", paragraph(Code(sweep.digest), " (the policy is no part of it)")),
            ("Seeds", paragraph(sweep.seeds_in_words)),
            ("Start and end", paragraph(f"{sweep.started or 'none'} to {sweep.ended or 'no end recorded'}")),
            ("Runs", paragraph(f"{sweep.runs} used, {len(sweep.problems)} left out, {sweep.planned_runs} planned")),
        )
    )
    yield Fold("Scenario as resolved (TOML)", (Code(toml(sweep.scenario), "Scenario"),))


def environments(sweep: SweepRecords) -> list[list[Seen]]:
    """Return groups of environments that differ only in the repository, largest groups first."""
    seen = [(Environment.model_validate_json(text), count) for text, count in sweep.environments.most_common()]
    groups = [list(group) for _, group in groupby(sorted(seen, key=_machine), key=_machine)]
    return sorted(groups, key=lambda group: -sum(count for _, count in group))


def _machine(seen: Seen) -> str:
    return seen[0].model_dump_json(exclude={"git_commit", "git_dirty"})


def _environment(group: Sequence[Seen]) -> Definitions:
    facts = {**dict(environment_facts(group[0][0])), "Git commit": _commits(group)}
    records = paragraph(f"{sum(count for _, count in group)}")
    return Definitions((("Records", records), *facts.items()))


def _commits(group: Sequence[Seen]) -> Paragraph:
    spans: list[str | Code] = []
    for commit, count in group:
        spans += commit_spans(commit)
        spans += [f": {with_noun(count, 'record')}", "; "] if len(group) > 1 else [""]
    return Paragraph(tuple(spans[:-1]))
