"""The display of a run: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import fmean

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from fedsim.core import registry
from fedsim.core.types import OnStep, Step
from fedsim.experiment.sweep.run import Outcome
from fedsim.experiment.watching import SILENT, Watcher
from fedsim.metrics.cost import measure_memory
from fedsim.record import (
    ATTACKS,
    Cause,
    Finding,
    RoundRecord,
    VictimRecord,
)

_DECLARED: tuple[Cause, ...] = ("dropout", "late", "crash", "refused")
_LINE_EVERY_SECONDS = 10.0
_REFRESH_EVERY_STEPS = 20
_SENTENCES_SHOWN = 4


class PlainLines:
    """Progress as text: a line per arm, round and attack, and a line every ten seconds during a long attack."""

    def __init__(self, console: Console) -> None:
        """Write to `console`."""
        self._console = console
        self._rounds = 0
        self._last_said = 0.0
        self._began = time.monotonic()

    def threat_model(self, sentences: tuple[str, ...]) -> None:
        """Print the attacker in plain sentences."""
        self._say("Threat model")
        for sentence in sentences:
            self._say(f"  {sentence}")

    def arm(self, name: str, number: int, total: int, rounds: int) -> None:
        """Print the start of an arm."""
        self._rounds = rounds
        self._began = time.monotonic()
        self._say(f"Arm {number} of {total}: {name}")

    def round(self, record: RoundRecord) -> None:
        """Print a round that was evaluated or left a client out; undeclared failures come with their reason."""
        parts = turnout(record)
        parts += [f"{utility.name} {utility.text}" for utility in record.utilities(registry.every_metric())[::-1]]
        if record.tokens is not None:
            parts += self._throughput(record.tokens)
        if parts:
            self._say(f"  round {record.round} of {self._rounds}: {', '.join(parts)}")
        for why, count in Counter(failure.reason for failure in record.failures if failure.cause == "refused").items():
            self._say(f"  round {record.round}: {count} of {len(record.cohort)} clients {why}")
        for failure in record.failures:
            if failure.cause not in _DECLARED:
                sentence = (
                    failure.reason if failure.cause == "aborted" else f"{failure.subject} left out: {failure.reason}"
                )
                self._say(f"  round {record.round}: {sentence}")

    def _throughput(self, tokens: int) -> list[str]:
        """Return training speed in tokens per second, evaluation included, and this process's memory afterwards."""
        before, self._began = self._began, time.monotonic()
        seconds, memory = self._began - before, measure_memory()
        parts = [f"{seconds:.1f} s", f"{tokens / max(seconds, 1e-9):,.0f} tokens/s"]
        return parts if memory is None else [*parts, f"{memory / 2**30:.2f} GiB"]

    def attack(self, label: str, victim: int, victims: int) -> OnStep:
        """Return a function that prints progress from time to time."""
        last = time.monotonic()

        def on_step(step: Step) -> None:
            nonlocal last
            if time.monotonic() - last < _LINE_EVERY_SECONDS:
                return
            last = time.monotonic()
            self._say(f"    {label}, victim {victim} of {victims}: iteration {step.iteration}, best {step.best:.2e}")

        return on_step

    def report_victim(self, label: str, victim: VictimRecord) -> None:
        """Print the outcome of an attack on an update."""
        self._say(f"  {label} on {victim.sender}: {outcome(victim)}")

    def progress(self, label: str, number: int, total: int) -> None:
        """Print the step number of a question, before the first step and every ten seconds."""
        self._from_time_to_time(number, f"    {label} {number} of {total}")

    def report_finding(self, finding: Finding) -> None:
        """Print a finding, except a finding of the attacks, whose outcomes were printed per update."""
        if finding.question != ATTACKS:
            self._say(f"  {tell(finding)}")

    def _from_time_to_time(self, number: int, line: str) -> None:
        if number > 1 and time.monotonic() - self._last_said < _LINE_EVERY_SECONDS:
            return
        self._last_said = time.monotonic()
        self._say(line)

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


class _Label(ProgressColumn):
    """The description of a bar in one line; in a narrow terminal it is cut before the numbers are."""

    def render(self, task: Task) -> Text:
        """Return the description."""
        return Text(task.description, no_wrap=True, overflow="ellipsis")


def _whole() -> Column:
    """Return a table column that a narrow terminal neither wraps nor cuts."""
    return Column(no_wrap=True)


@contextmanager
def counting(console: Console, runs: int) -> Iterator[Callable[[Outcome], None]]:
    """Yield a function that shows every ended run of a sweep: a bar with the time left, or plain lines."""
    columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("runs", total=runs)
        count = 0

        def on_outcome(outcome: Outcome) -> None:
            nonlocal count
            count += 1
            progress.advance(bar)
            if outcome.status == "reused":
                return
            why = f": {outcome.failure.why}" if outcome.failure else ""
            line = f"  {count} of {runs}: {outcome.run.name}, {outcome.status} in {outcome.seconds:.1f} s{why}"
            progress.console.print(Text(line), soft_wrap=True)

        yield on_outcome


class LiveBars:
    """Bars for rounds, victims and iterations; lines of finished attacks scroll above them."""

    def __init__(self, console: Console, progress: Progress) -> None:
        """Use `progress`, which the caller starts and stops."""
        self._lines = PlainLines(console)
        self._progress = progress
        self._round_bar: TaskID | None = None
        self._victim, self._victims = 0, 0
        self._victim_bar = progress.add_task("attack", total=1, visible=False)
        self._step_bar = progress.add_task("iterations", total=1, visible=False)

    def threat_model(self, sentences: tuple[str, ...]) -> None:
        """Print the attacker in plain sentences."""
        self._lines.threat_model(sentences)

    def arm(self, name: str, number: int, total: int, rounds: int) -> None:
        """Start the bar of the arm's rounds."""
        self._lines.arm(name, number, total, rounds)
        if self._round_bar is not None:
            self._progress.remove_task(self._round_bar)
        self._round_bar = self._progress.add_task("rounds", total=rounds)

    def round(self, record: RoundRecord) -> None:
        """Advance the bar of rounds."""
        if self._round_bar is not None:
            self._progress.update(self._round_bar, completed=record.round)
        self._lines.round(record)

    def attack(self, label: str, victim: int, victims: int) -> OnStep:
        """Return a function that moves the bar of iterations."""
        self._victim, self._victims = victim, victims
        self._progress.update(
            self._victim_bar, description=label, total=victims, completed=victim - 1, visible=True, refresh=True
        )

        def on_step(step: Step) -> None:
            if step.iteration % _REFRESH_EVERY_STEPS == 0:
                self._progress.update(
                    self._step_bar,
                    description=f"iterations, best {step.best:.1e}",
                    total=step.iterations,
                    completed=step.iteration,
                    visible=True,
                )

        return on_step

    def report_victim(self, label: str, victim: VictimRecord) -> None:
        """Print the outcome of one attack; the bars of the attack go after its last update."""
        self._progress.update(self._victim_bar, completed=self._victim)
        if self._victim == self._victims:
            self._hide_bars()
        self._lines.report_victim(label, victim)

    def progress(self, label: str, number: int, total: int) -> None:
        """Move the bar of a question's steps."""
        self._progress.update(
            self._step_bar, description=label, total=total, completed=number - 1, visible=True, refresh=True
        )

    def report_finding(self, finding: Finding) -> None:
        """Print a finding."""
        self._hide_bars()
        self._lines.report_finding(finding)

    def _hide_bars(self) -> None:
        for bar in (self._victim_bar, self._step_bar):
            self._progress.update(bar, visible=False, refresh=True)


@contextmanager
def open_display(console: Console) -> Iterator[PlainLines | LiveBars]:
    """Yield the display for the console."""
    if not console.is_terminal:
        yield PlainLines(console)
        return
    counts, elapsed = MofNCompleteColumn(table_column=_whole()), TimeElapsedColumn(table_column=_whole())
    columns = (_Label(), BarColumn(), counts, elapsed)
    with Progress(*columns, console=console, transient=True) as progress:
        yield LiveBars(console, progress)


@contextmanager
def silent() -> Iterator[Watcher]:
    """Yield a display that shows nothing."""
    yield SILENT


def turnout(record: RoundRecord) -> list[str]:
    """Return how many updates of a round counted, and why others did not; empty where all counted."""
    if record.cohort and not record.failures:
        return []
    lost = Counter(failure.cause for failure in record.failures)
    counted = len(record.cohort) - len(record.failures)
    return [
        f"{counted} of {len(record.cohort)} counted",
        *(f"{number} {cause}" for cause, number in sorted(lost.items())),
    ]


def outcome(victim: VictimRecord) -> str:
    """Return the outcome of an attack on an update: metrics, iterations, time and the first pairs of texts."""
    if victim.failure is not None:
        return f"failed: {victim.failure}"
    parts = [*_figures(victim), *(f"{name}: {figure:.0%}" for name, figure in victim.extras.items())]
    search = f"{victim.iterations} iterations, {victim.seconds:.1f} s ({victim.stopped})"
    lines = [f"{', '.join(parts)}, {search}" if parts else search]
    pairs = [(item.text, item.guess or "") for item in victim.scores if item.text is not None]
    for text, guess in pairs[:_SENTENCES_SHOWN]:
        lines += [f"    client: {_mask_unprintable(text)}", f"    server: {_mask_unprintable(guess)}"]
    return "\n".join(lines)


def _figures(victim: VictimRecord) -> Iterator[str]:
    """Yield every metric of an update, and for its examples the mean or the share with the flag set."""
    declared = registry.every_metric()
    for name in dict.fromkeys(name for item in victim.scores for name in item.values):
        metric, values = declared[name], [item.values[name] for item in victim.scores if name in item.values]
        if metric.form == "flag" and not metric.table:
            noun = f"{metric.noun}s {metric.verdict}" if metric.threshold is not None else metric.title
            yield f"{sum(map(bool, values))} of {len(values)} {noun}"
        elif metric.shown and not metric.table:
            yield f"{metric.title} {metric.format(fmean(values))}"
    for name, value in victim.values.items():
        yield f"{declared[name].title} {declared[name].format(value)}"


def _mask_unprintable(text: str) -> str:
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def tell(finding: Finding) -> str:
    """Return a finding as a line: label, role, value with n (or note), and chance level."""
    if finding.failure:
        return f"{finding.label}: failed: {finding.failure}"
    metric = registry.every_metric()[finding.metric]
    value = "" if finding.value is None else f"{metric.title} {metric.format(finding.value.value)}, n = {finding.n}"
    chance = "" if finding.chance_level is None else f", chance {metric.format(finding.chance_level)}"
    role = "" if finding.role == "attack" else f" ({finding.role})"
    return f"{finding.label}{role}: {value or finding.note}{chance}"
