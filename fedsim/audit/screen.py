"""An audit's findings on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedsim.audit import evidence, planted, verdict
from fedsim.audit.record import GROUPS, SUGGESTS, AuditRecord, Inspection, Trial
from fedsim.core import registry
from fedsim.metrics.evidence import is_every_word_read
from fedsim.metrics.success import Rule
from fedsim.record import Finding, Interval
from fedsim.report.verdict import Column, failed_on
from fedsim.scenario import Scoring


def updates(record: AuditRecord) -> Table:
    """Return what was recovered from updates, one row per batch size."""
    table = Table(title=Text(f"Recovered from updates of {record.plan.target}"), title_justify="left")
    table.caption = Text(
        "converged: searches whose guess explains the update as well as the truth does; ideal attacker: how well "
        "anybody could know the examples, to first order at the truth, and how many it would recover"
    )
    words = ("ideal attacker", "state", "by")
    column, noun = headline(record.noun), record.noun
    for heading in ("batch", "updates", f"{noun}s", "searched", "recovered", column.heading, *words):
        table.add_column(heading, justify="left" if heading in words else "right")
    for own in record.inspections:
        table.add_row(*map(Text, row(own, record)))
    return table


def members(record: AuditRecord) -> Table:
    """Return what membership attacks find, one row per attack."""
    table = Table(title="Members found", title_justify="left")
    for heading in ("attack", "judges", "members", "AUC", "TPR at 1 % FPR"):
        table.add_column(heading, justify="left" if heading in ("attack", "judges") else "right")
    without: dict[str, list[str]] = {}
    for finding in record.of("membership"):
        if finding.failure:
            without.setdefault(finding.failure, []).append(finding.label)
        else:
            table.add_row(*map(Text, member_row(finding)))
    if without:
        table.caption = Text("\n".join(f"{', '.join(names)}: {why}" for why, names in without.items()))
        table.caption_justify = "left"
    return table


def member_row(finding: Finding) -> tuple[str, str, str, str, str]:
    """Return what stands of a membership attack: its name, what it judges, members, AUC, and members found."""
    about, auc, tpr = finding.about, finding.figure("auc"), finding.figure(verdict.MEMBERS_FOUND)
    judges = "the trained model" if about["target"] == "model" else f"updates of rounds {about['rounds']}"
    share = f"{interval(tpr, 100, 0)} %" if tpr else "too few"
    return finding.label, judges, str(about["members"]), interval(auc, 1, 2) if auc else "", share


def secrets(record: AuditRecord) -> Table:
    """Return what a language model remembers of planted secrets, one row per number of repetitions."""
    table = Table(title="Planted secrets", title_justify="left")
    table.caption = Text(
        f"exposure: log2 of all fillings over the rank of the true one, 1.4 by chance, "
        f"{record.of('exposure')[0].limit:.1f} "
        "at most; written: the model writes the whole secret behind its beginning"
    )
    for heading in ("planted", "secrets", "used", "exposure, bits", "written", "remembered"):
        table.add_column(heading, justify="left" if heading in ("planted", "remembered") else "right")
    for row_ in secret_rows(record):
        table.add_row(*map(Text, row_))
    return table


def secret_rows(record: AuditRecord) -> Iterator[tuple[str, ...]]:
    """Yield what stands of each number of repetitions: planted, secrets, uses, exposure, written, remembered."""
    findings = record.of("exposure")
    for finding in findings:
        table, repetitions = record.items[finding.items], finding.about["repetitions"]
        pairs = zip(table["repetitions"], table["uses"], strict=True)
        uses = [used for planted_, used in pairs if planted_ == repetitions]
        times = f"{repetitions} x" if repetitions else "not (control)"
        state = ("yes" if planted.is_above(finding, findings[0]) else "no") if repetitions else ""
        exposure = interval(finding.value, 1, 1) if finding.value else ""
        written = f"{interval(finding.more['secrets_written'], 100, 0)} %"
        yield times, str(len(uses)), f"{sum(uses) / len(uses):.1f} times", exposure, written, state


def groups(record: AuditRecord) -> Table:
    """Return the risk of the groups that the user named, one row per group."""
    table = Table(title=Text(f"Risk by {record.group}"), title_justify="left")
    table.caption = Text("each group against all others; p is that of no difference, after Holm over the groups")
    for heading in ("what", "group", "n", "value", "p"):
        table.add_column(heading, justify="left" if heading in ("what", "group") else "right")
    for row_ in group_rows(record, record.group):
        table.add_row(*map(Text, row_))
    return table


def group_rows(record: AuditRecord, by: str) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield what was measured of each group: what, of whom, of how many, the value, and p."""
    for finding in record.of(GROUPS):
        if finding.about["by"] == by and finding.value is not None:
            p = "" if finding.p is None else f"{finding.p:.2g}"
            yield finding.label, str(finding.about["group"]), str(finding.n), interval(finding.value, 1, 2), p


def defenses(record: AuditRecord) -> Table:
    """Return what defenses stop and cost, the best first, and the attacks behind it."""
    table = Table(title="Defenses, with default settings unless stated", title_justify="left")
    table.caption = Text(
        "recovered: share with its interval, over n updates, each with this many iterations, and how many converged"
    )
    last = ("keeps the policy",)
    for heading in ("defense", "recovered", "ideal attacker", "accuracy lost, points", "loss", "round", *last):
        table.add_column(heading, justify="left" if heading in ("defense", "ideal attacker", *last) else "right")
    if record.control is not None:
        ideal = evidence.ideal(record.control, record.plan.scoring)
        table.add_row("none (control)", _search(record.control), ideal, "", "", "", "")
    for own in verdict.rank(record):
        table.add_row(
            Text(own.name),
            _search(own.inspection),
            evidence.ideal(own.inspection, record.plan.scoring),
            interval(own.accuracy_loss, 100, 1) if own.accuracy_loss else "",
            f"{own.loss_change:+.3f}" if own.loss_change is not None else "",
            f"x {own.slowdown:.2g}" if own.slowdown else "",
            kept(record, own),
        )
    for own in record.trials:
        if own.failure:
            table.add_row(Text(own.name), _search(own.inspection), "", Text(own.failure), "", "", "undecided")
    return table


def kept(record: AuditRecord, trial: Trial) -> str:
    """Return whether a defense keeps the policy, as text."""
    state = verdict.judged(record, trial)
    return "no policy" if record.policy.is_empty and state != "undecided" else state


def _search(found: Inspection | None) -> str:
    if found is None:
        return "not attacked"
    return f"{recovered(found)}\nn = {len(found.victims)}, {searched(found)}"


def searched(found: Inspection) -> str:
    """Return how long was searched, from how many starts, and how many searches converged, as text."""
    starts = evidence.restarts(found)
    again = f" x {starts}" if starts > 1 else ""
    return f"{found.iterations}{again} it., {evidence.converged(found)} of {len(found.victims)} converged"


@contextmanager
def counting(console: Console) -> Iterator[Callable[[str, float], None]]:
    """Show what is being done and the time left: one live line on a terminal, plain lines elsewhere."""
    latest = ""
    with console.status("") as status:

        def told(what: str, left: float) -> None:
            nonlocal latest
            line = Text(f"{int(left) // 60}:{int(left) % 60:02d} left  {what}")
            if what.startswith(SUGGESTS):
                console.print(Text(what), soft_wrap=True)
            elif console.is_terminal:
                status.update(line)
            elif what != latest:
                console.print(line, soft_wrap=True)
            latest = what

        yield told


def interval(own: Interval, scale: float, digits: int) -> str:
    """Return value and bounds, as text."""
    value = f"{scale * own.value:.{digits}f}"
    if own.low is None or own.high is None:
        return value
    return f"{value} ({scale * own.low:.{digits}f} to {scale * own.high:.{digits}f})"


def recovered(inspection: Inspection | None) -> str:
    """Return the recovered share in percent, as text."""
    if inspection is not None and inspection.is_unknown:
        return "not known" if inspection.is_short else "failed"
    if inspection is None or inspection.summary is None:
        return "not scored"
    failed = failed_on(sum(victim.failure is not None for victim in inspection.victims), len(inspection.victims))
    return f"{interval(inspection.summary.success, 100, 0)} %{f', {failed}' if failed else ''}"


def rule(scoring: Scoring, noun: str = "image") -> str:
    """Return when an example counts as recovered, for people."""
    values = {name: 0.0 for name, own in registry.every_metric().items() if own.over == "item" and own.noun == noun}
    return Rule.of(scoring.metric, scoring.threshold).told(values)


def headline(noun: str = "image") -> Column:
    """Return the figure of examples that tables show beside what was recovered: one with a distribution, if any has."""
    known = [own for own in registry.every_metric().values() if own.over == "item" and own.noun == noun]
    known = [own for own in known if own.statistics and own.shown]
    metric = max(known, key=lambda own: (own.spread, own.decides))  # of equal ones the first
    name, statistic = next(iter(metric.statistics.items()))
    return Column(name, metric.heading(statistic), metric)


def told(own: Inspection, column: Column) -> str:
    """Return a figure of what attacks found, with its interval, for people; nothing where there is none."""
    found = own.summary.metrics.get(column.name) if own.summary else None
    metric = column.metric
    return f"{interval(found, metric.scale, metric.digits)}{metric.suffix}" if found else ""


def winner(inspection: Inspection) -> str:
    """Return the attack that `auto` chose for most updates, or what read the words where none read a sentence."""
    if inspection.recovered == 0.0 and any(map(is_every_word_read, inspection.victims)):
        return "word-readout: every word, not their order"
    won = [
        note.removeprefix("won: ").partition(",")[0]
        for victim in inspection.victims
        for note in victim.notes
        if note.startswith("won: ")
    ]
    if won:
        return max(set(won), key=lambda name: (won.count(name), name))
    return "an unfinished search" if inspection.is_short else "none"


def row(own: Inspection, record: AuditRecord) -> tuple[str, ...]:
    """Return what stands of a batch size in the table of updates."""
    if own.failure is not None:
        return (str(own.batch_size), "", "", "", "", "", "", "", own.failure)
    failures = [victim.failure for victim in own.victims if victim.failure]
    images = sum(len(victim.scores) for victim in own.victims)
    by = winner(own)
    return (
        str(own.batch_size),
        str(len(own.victims)),
        str(images),
        searched(own),
        recovered(own),
        told(own, headline(record.noun)),
        evidence.ideal(own, record.plan.scoring),
        evidence.state(own, record.plan.scoring),
        by if len(failures) < len(own.victims) else failures[0],
    )
