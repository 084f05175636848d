"""The display of a run: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from fedsim.core.types import OnStep, Step
from fedsim.experiment.sweep.run import Outcome
from fedsim.metrics.cost import held_memory
from fedsim.record import (
    Cause,
    GuaranteeRecord,
    Interval,
    MembershipRecord,
    RoundRecord,
    RunRecord,
    Summary,
    TextSummary,
    VictimRecord,
)

_DECLARED: tuple[Cause, ...] = ("dropout", "late", "crash")
_LINE_EVERY_SECONDS = 10.0
_REFRESH_EVERY_STEPS = 20
_SENTENCES_SHOWN = 4


class PlainLines:
    """One line per arm, round and attack, and every ten seconds in a long attack."""

    def __init__(self, console: Console) -> None:
        """Write to `console`."""
        self._console = console
        self._rounds = 0
        self._told = 0.0
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
        told = turnout(record)
        told += [f"{own.name} {own.told}" for own in record.utilities[::-1]]
        if record.tokens is not None:
            told += self._throughput(record.tokens)
        if told:
            self._say(f"  round {record.round} of {self._rounds}: {', '.join(told)}")
        for failure in record.failures:
            if failure.cause not in _DECLARED:
                what = failure.why if failure.cause == "aborted" else f"{failure.who} left out: {failure.why}"
                self._say(f"  round {record.round}: {what}")

    def _throughput(self, tokens: int) -> list[str]:
        """Return the speed of a round of text, evaluation included, and the memory of this process after it."""
        before, self._began = self._began, time.monotonic()
        seconds, memory = self._began - before, held_memory()
        told = [f"{seconds:.1f} s", f"{tokens / max(seconds, 1e-9):,.0f} tokens/s"]
        return told if memory is None else [*told, f"{memory / 2**30:.2f} GiB"]

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

    def attacked(self, label: str, victim: VictimRecord) -> None:
        """Print the outcome of one attack."""
        self._say(f"  {label} on {victim.who}: {outcome(victim)}")

    def shadow(self, label: str, number: int, total: int) -> None:
        """Print that shadow models are trained, before the first one and every ten seconds."""
        if number > 1 and time.monotonic() - self._told < _LINE_EVERY_SECONDS:
            return
        self._told = time.monotonic()
        self._say(f"    {label}: shadow model {number} of {total}")

    def judged(self, record: MembershipRecord) -> None:
        """Print the outcome of a membership attack."""
        self._say(f"  {record.label} on {_judged(record)}: {separated(record)}")

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


@contextmanager
def counting(console: Console, runs: int) -> Iterator[Callable[[Outcome], None]]:
    """Yield a function that shows every ended run of a sweep: a bar with the time left, or plain lines."""
    columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("runs", total=runs)
        count = 0

        def told(outcome: Outcome) -> None:
            nonlocal count
            count += 1
            progress.advance(bar)
            if outcome.status == "reused":
                return
            why = f": {outcome.failure.why}" if outcome.failure else ""
            line = f"  {count} of {runs}: {outcome.run.name}, {outcome.status} in {outcome.seconds:.1f} s{why}"
            progress.console.print(Text(line), soft_wrap=True)

        yield told


class LiveBars:
    """Bars for rounds, victims and iterations; lines of finished attacks scroll above them."""

    def __init__(self, console: Console, progress: Progress) -> None:
        """Use `progress`, which the caller starts and stops."""
        self._lines = PlainLines(console)
        self._progress = progress
        self._round_bar: TaskID | None = None
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

    def attacked(self, label: str, victim: VictimRecord) -> None:
        """Print the outcome of one attack."""
        self._lines.attacked(label, victim)

    def shadow(self, label: str, number: int, total: int) -> None:
        """Move the bar of shadow models."""
        self._progress.update(
            self._step_bar,
            description=f"{label}: shadow models",
            total=total,
            completed=number - 1,
            visible=True,
            refresh=True,
        )

    def judged(self, record: MembershipRecord) -> None:
        """Print the outcome of a membership attack."""
        self._progress.update(self._step_bar, visible=False)
        self._lines.judged(record)


@contextmanager
def watching(console: Console) -> Iterator[PlainLines | LiveBars]:
    """Yield the display for the console."""
    if not console.is_terminal:
        yield PlainLines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield LiveBars(console, progress)


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
    """Return one line about one attacked update."""
    if victim.failure is not None:
        return f"no result: {victim.failure}"
    if victim.sentences:
        return _read(victim)
    psnr = sum(item.psnr for item in victim.scores) / len(victim.scores)
    ssim = sum(item.ssim for item in victim.scores) / len(victim.scores)
    found = "".join(f"; {name}: {figure:.0%}" for name, figure in victim.found.items())
    return (
        f"PSNR {psnr:.1f} dB, SSIM {ssim:.2f}, {victim.iterations} iterations, "
        f"{victim.seconds:.1f} s ({victim.stopped}){found}"
    )


def _read(victim: VictimRecord) -> str:
    """Return how many sentences were read, and the first ones with their guesses."""
    exact, rouge = (sum(getattr(own, name) for own in victim.sentences) for name in ("exact", "rouge_l"))
    lines = [
        f"{exact} of {len(victim.sentences)} sentences exact, ROUGE-L {rouge / len(victim.sentences):.2f}, "
        f"{victim.seconds:.1f} s ({victim.stopped}){_secrets_read(victim)}"
    ]
    for own in victim.sentences[:_SENTENCES_SHOWN]:
        lines += [f"    client: {_printable(own.text)}", f"    server: {_printable(own.guess)}"]
    return "\n".join(lines)


def _secrets_read(victim: VictimRecord) -> str:
    planted = [own.secret_read for own in victim.sentences if own.secret is not None]
    return f"; {sum(planted)} of {len(planted)} planted secrets read" if planted else ""


def _printable(text: str) -> str:
    """Replace characters that could control a terminal."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def separated(record: MembershipRecord) -> str:
    """Return one line about a membership attack's success."""
    if record.summary is None:
        return f"no result: {record.failure}"
    found = ", ".join(
        f"{low.tpr.value:.1%} at FPR {low.fpr:.1%}" for low in record.summary.low_fpr if low.tpr is not None
    )
    n = f"{record.members} members, {record.non_members} others"
    return f"AUC {record.summary.auc.value:.2f}" + (f", TPR {found}" if found else "") + f" ({n})"


def memberships(record: RunRecord) -> Table:
    """Return the final table of arms and membership attacks."""
    table = Table(title="Who was a member?", title_justify="left")
    fractions = sorted({low.fpr for a in record.arms for m in a.membership if m.summary for low in m.summary.low_fpr})
    headings = ("arm", "attack", "AUC", *(f"TPR at FPR {fpr:.1%}" for fpr in fractions[::-1]), "n")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("arm", "attack") else "right")
    for arm in record.arms:
        for own in arm.membership:
            cells: Sequence[str] = ("-",) * (len(headings) - 2)
            if own.summary is not None:
                low = (_rate(each.tpr) if each.tpr else "-" for each in own.summary.low_fpr)
                cells = (_number(own.summary.auc, 2), *low, f"{own.members} + {own.non_members}")
            table.add_row(arm.name, own.label, *cells)
    return table


def exposures(record: RunRecord) -> Table:
    """Return the final table of arms and planted secrets."""
    table = Table(title="What was memorised?", title_justify="left")
    for heading in ("arm", "secrets", "repetitions", "exposure (bits)", "at most", "extracted", "found by search", "n"):
        table.add_column(heading, justify="left" if heading in ("arm", "secrets") else "right")
    for arm in record.arms:
        for own in arm.exposure.summaries if arm.exposure else ():
            found = "-" if own.found is None else _percent(own.found)
            figures = (_number(own.exposure, 2), f"{own.most:.1f}", _percent(own.extracted), found)
            table.add_row(arm.name, own.kind, str(own.repetitions), *figures, str(own.exposure.n))
    return table


def results(record: RunRecord) -> Table:
    """Return the final table of arms and attacks, for images or for sentences."""
    is_text = any(victim.sentences for arm in record.arms for attack in arm.attacks for victim in attack.victims)
    headings = ("recognised", "median PSNR (dB)", "mean SSIM")
    of_text = ("exact sentences", "right tokens", "ROUGE-1, 2, L", "secrets read")
    table = Table(title=str(record.scenario["title"]), title_justify="left")
    for heading in ("arm", "attack", *(of_text if is_text else headings), "n"):
        table.add_column(heading, justify="left" if heading in ("arm", "attack") else "right")
    for arm in record.arms:
        for attack in arm.attacks:
            summary = attack.summary
            cells: Sequence[str] = ("-",) * (len(of_text if is_text else headings) + 1)
            if summary is not None:
                figures = _of_text(summary) if is_text else _of_images(summary)
                unsure = "" if arm.replay_matches else " (truth unsure)"
                cells = (_percent(summary.success) + unsure, *figures, str(summary.success.n))
            table.add_row(arm.name, attack.label, *cells)
    return table


def unrepeated(record: RunRecord) -> list[str]:
    """Return a sentence for every arm whose truth may be wrong."""
    return [
        f"The truth of {arm.name} is unsure: replaying the clients gave another update than the one on the wire, so "
        "scores may compare with the wrong images. The model, a component or a defense draws numbers that do not "
        "depend on the seed, or keeps state between two calls."
        for arm in record.arms
        if arm.attacks and not arm.replay_matches
    ]


def _of_images(summary: Summary) -> tuple[str, str]:
    return _number(summary.psnr_median, 1), _number(summary.ssim_mean, 2)


def _of_text(summary: Summary) -> tuple[str, ...]:
    text = summary.text or TextSummary(token_accuracy=None, rouge_l=None)
    rouge = (text.rouge_1, text.rouge_2, text.rouge_l)
    right, read = ("-" if own is None else _percent(own) for own in (text.token_accuracy, text.secrets))
    return right, ", ".join(f"{own.value:.2f}" for own in rouge if own is not None) or "-", read


def composites(record: RunRecord) -> Table | None:
    """Return the table of scores against composites, or None where no client trained on any."""
    rows = [
        (arm.name, attack.label, attack.summary.composites)
        for arm in record.arms
        for attack in arm.attacks
        if attack.summary is not None and attack.summary.composites is not None
    ]
    if not rows:
        return None
    table = Table(title="Against the composites that clients trained on", title_justify="left")
    to = ("to the composite (dB)", "its SSIM", "to the seen part (dB)")
    headings = ("arm", "attack", *to, "part seen", "both labels found")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("arm", "attack") else "right")
    for arm, label, own in rows:
        similarity = _number(own.ssim_trained, 2)
        figures = (_number(own.psnr_trained, 1), similarity, _number(own.psnr_seen, 1), _number(own.seen, 2))
        table.add_row(arm, label, *figures, "-" if own.minor_found is None else _percent(own.minor_found))
    return table


def guarantees(record: RunRecord) -> list[str]:
    """Return a line for every guarantee of every arm."""
    return [f"{arm.name}: {told_of(own)}" for arm in record.arms for own in arm.guarantees]


def audits(record: RunRecord) -> list[str]:
    """Return a line for every audited claim, marked where it is contradicted."""
    return [
        f"{'CONTRADICTED: ' if own.contradicts else 'Audit: '}{arm.name}: {own.figure}."
        for arm in record.arms
        for own in arm.audits
    ]


def told_of(own: GuaranteeRecord) -> str:
    """Return a guarantee with all that gives its epsilon meaning."""
    return (
        f"{own.source}: {own.figure}; unit: {own.neighbours}; {own.sampling}; {own.composition}; against {own.against}."
    )


def _judged(record: MembershipRecord) -> str:
    return "the model" if record.target == "model" else f"client {record.client}"


def _percent(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.value:.0%}"
    return f"{interval.value:.0%} [{interval.low:.0%}, {interval.high:.0%}]"


def _rate(interval: Interval) -> str:
    return f"{interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def _number(interval: Interval | None, digits: int) -> str:
    if interval is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.{digits}f}"
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
