"""Rows of the report's tables and of `scores.csv`: formatted text for people, plain values for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from fedsim.metrics.statistics import succeeded
from fedsim.record import (
    ArmRecord,
    AttackRecord,
    Cause,
    ClientCost,
    ExposureRecord,
    Interval,
    MembershipRecord,
    PartitionRecord,
    RoundRecord,
    RunRecord,
    SentenceScore,
    TextSummary,
    VictimRecord,
)
from fedsim.report.verdict import Judge, bounds, has_result, knowledge

SCORE_COLUMNS = (
    "arm",
    "attack",
    "round",
    "client",
    "image",
    "label",
    "guessed_label",
    "mse",
    "mse_normalised",
    "psnr_db",
    "ssim",
    "token_accuracy",
    "rouge_1",
    "rouge_2",
    "rouge_l",
    "secret_read",
    "success",
    "objective",
    "objective_at_truth",
    "iterations",
    "stopped",
    "seconds",
    "failure",
)

CAUSES: tuple[Cause, ...] = get_args(Cause)

MINOR_SHARES = ((0.0, 0.05), (0.05, 0.2), (0.2, 0.5))
"""Shares of the smaller label, above the first and up to the second, in which its recovery is counted."""

NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class Estimate:
    """A number and its interval, as text; a dash when there is no number."""

    value: str
    interval: str = ""


@dataclass(frozen=True)
class Result:
    """One attack in one arm; `rouge` holds ROUGE-1, ROUGE-2 and ROUGE-L."""

    attack: str
    is_control: bool
    n: int
    recovered: str
    success: Estimate
    psnr: Estimate
    ssim: Estimate
    labels: Estimate
    masks: Estimate
    tokens: Estimate
    rouge: tuple[Estimate, ...]
    secrets: Estimate
    seconds: str
    reason: str


@dataclass(frozen=True)
class Results:
    """All attacks of one arm, with what the arm costs in accuracy."""

    arm: str
    model: str
    accuracy: str
    cost: str
    rows: tuple[Result, ...]


@dataclass(frozen=True)
class Inference:
    """One membership attack in one arm; `low` holds its TPR at each low FPR."""

    attack: str
    settings: str
    judged: str
    n: str
    auc: Estimate
    advantage: str
    low: tuple[Estimate, ...]
    reason: str


@dataclass(frozen=True)
class Inferences:
    """All membership attacks of one arm."""

    arm: str
    rows: tuple[Inference, ...]


@dataclass(frozen=True)
class Remembered:
    """Secrets of one kind that were planted equally often; `guesses` holds (secret, what the model wrote)."""

    kind: str
    repetitions: str
    n: int
    exposure: Estimate
    most: str
    extracted: Estimate
    found: Estimate
    guesses: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Memories:
    """What the trained model of one arm remembers of the planted secrets."""

    arm: str
    rows: tuple[Remembered, ...]


@dataclass(frozen=True)
class Sight:
    """One attack in one arm whose clients trained on composites; `minor` counts what was found by MINOR_SHARES."""

    arm: str
    attack: str
    trained: Estimate
    similarity: Estimate
    seen: Estimate
    part: Estimate
    labels: Estimate
    minor: tuple[str, ...]


@dataclass(frozen=True)
class Diagnosis:
    """How one search ended."""

    attack: str
    victim: str
    objective: str
    at_truth: str
    iterations: str
    stopped: str
    reading: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """One sentence of a client, and what an attack made of it."""

    arm: str
    attack: str
    victim: str
    sentence: SentenceScore


@dataclass(frozen=True)
class LeftOut:
    """Somebody or something that is missing from the numbers, and why."""

    where: str
    who: str
    why: str


@dataclass(frozen=True)
class Attacker:
    """What an attack is called, is, knows and was set to."""

    label: str
    name: str
    knows: str
    settings: str


@dataclass(frozen=True)
class Ownership:
    """Who owns what, in a sentence and as it was recorded; `arm` names every arm that shares the data out so."""

    arm: str
    sentence: str
    partition: PartitionRecord


@dataclass(frozen=True)
class Turnout:
    """How many clients were asked in a round, how many updates counted, and how many were lost to each of CAUSES."""

    round: int
    asked: int
    counted: int
    lost: tuple[int, ...]


@dataclass(frozen=True)
class Attendance:
    """Who took part in an arm, in a sentence and round by round."""

    arm: str
    sentence: str
    rounds: tuple[Turnout, ...]


def results(record: RunRecord, judge: Judge) -> list[Results]:
    """Return the table of attacks by arms."""
    return [
        Results(
            arm.name,
            _model(arm),
            _accuracy(arm),
            cost(arm.client_cost),
            tuple(_result(arm, attack, judge) for attack in arm.attacks),
        )
        for arm in record.arms
    ]


def memberships(record: RunRecord) -> list[Inferences]:
    """Return the table of membership attacks by arms, of the arms that have any."""
    return [Inferences(arm.name, tuple(map(_inference, arm.membership))) for arm in record.arms if arm.membership]


def memories(record: RunRecord) -> list[Memories]:
    """Return the table of planted secrets by arms, of the arms whose exposure was measured."""
    return [Memories(arm.name, _remembered(arm.exposure)) for arm in record.arms if arm.exposure is not None]


def _remembered(own: ExposureRecord) -> tuple[Remembered, ...]:
    return tuple(
        Remembered(
            kind=alike.kind,
            repetitions=f"{alike.repetitions:,}" if alike.repetitions else "0 (control)",
            n=alike.exposure.n,
            exposure=estimate(alike.exposure, 1, 2),
            most=f"{alike.most:.2f}",
            extracted=estimate(alike.extracted, 100, 0, "%"),
            found=estimate(alike.found, 100, 0, "%"),
            guesses=tuple(
                (secret.text, secret.guess)
                for secret in own.secrets
                if (secret.kind, secret.repetitions) == (alike.kind, alike.repetitions)
            ),
        )
        for alike in own.summaries
    )


def sights(record: RunRecord) -> list[Sight]:
    """Return scores against what the model saw, of every attack in an arm whose clients trained on composites."""
    return [
        Sight(
            arm=arm.name,
            attack=attack.label,
            trained=estimate(own.psnr_trained, 1, 1, " dB"),
            similarity=estimate(own.ssim_trained, 1, 2),
            seen=estimate(own.psnr_seen, 1, 1, " dB"),
            part=estimate(own.seen, 100, 0, "%"),
            labels=estimate(own.minor_found, 100, 0, "%"),
            minor=tuple(_found_between(attack, low, high) for low, high in MINOR_SHARES),
        )
        for arm in record.arms
        for attack in arm.attacks
        if attack.summary is not None and (own := attack.summary.composites) is not None
    ]


def _found_between(attack: AttackRecord, low: float, high: float) -> str:
    items = (item for victim in attack.victims for item in victim.scores if item.minor_share is not None)
    found = [item.minor_found for item in items if low < (item.minor_share or 0.0) <= high]
    if None in found or not found:
        return NOTHING
    return f"{sum(map(bool, found))} of {len(found)}"


def readings(record: RunRecord) -> list[Reading]:
    """Return every client's sentence beside each attack's guess of it."""
    return [
        Reading(arm.name, attack.label, f"round {victim.round}, {victim.who}", sentence)
        for arm in record.arms
        for attack in arm.attacks
        for victim in attack.victims
        for sentence in victim.sentences
    ]


def diagnoses(record: RunRecord, judge: Judge) -> list[tuple[str, list[Diagnosis]]]:
    """Return (arm, rows) for every arm with at least one search that ended."""
    by_arm = [
        (arm.name, [_diagnosis(attack, v, judge) for attack in arm.attacks for v in attack.victims if not v.failure])
        for arm in record.arms
    ]
    return [(name, rows) for name, rows in by_arm if rows]


def left_out(record: RunRecord) -> list[LeftOut]:
    """Return everything that failed or did not apply, none dropped silently."""
    rows = [LeftOut("run", failure.who, failure.why) for failure in record.failures]
    for arm in record.arms:
        for entry in arm.rounds:
            where = f"{arm.name}, round {entry.round}"
            rows += [LeftOut(where, ", ".join(who), why) for why, who in _clients_by_reason(entry).items()]
        for attack in arm.attacks:
            rows += _failed_attacks(arm, attack)
        rows += [
            LeftOut(arm.name, f"membership attack {own.label}", own.failure) for own in arm.membership if own.failure
        ]
    return rows


def attackers(record: RunRecord) -> list[Attacker]:
    """Return every attack once, in order of appearance; one whose settings differ between arms appears for each."""
    seen: dict[Attacker, None] = {}
    for arm in record.arms:
        for attack in arm.attacks:
            settings = ", ".join(f"{key} = {value}" for key, value in attack.settings.items())
            seen[Attacker(attack.label, attack.name, knowledge(attack), settings or "none")] = None
    return list(seen)


def ownerships(record: RunRecord) -> list[Ownership]:
    """Return every partition among several clients once, in order of appearance."""
    names: dict[PartitionRecord, list[str]] = {}
    for arm in record.arms:
        if arm.partition is not None and arm.partition.clients > 1:
            names.setdefault(arm.partition, []).append(arm.name)
    return [Ownership("; ".join(arms), _owned(partition), partition) for partition, arms in names.items()]


def attendances(record: RunRecord) -> list[Attendance]:
    """Return who took part, of every arm in which the server asked different numbers of clients or lost an update."""
    by_arm = [(arm.name, tuple(_turnout(entry) for entry in arm.rounds)) for arm in record.arms]
    return [
        Attendance(name, _attended(rounds), rounds)
        for name, rounds in by_arm
        if len({turnout.asked for turnout in rounds}) > 1 or any(any(turnout.lost) for turnout in rounds)
    ]


def scores(record: RunRecord, judge: Judge) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of `scores.csv`: one an arm, attack, victim and image; one without scores where it failed."""
    for arm in record.arms:
        for attack in arm.attacks:
            for victim in attack.victims:
                yield from _score_rows(arm, attack, victim, judge)


def _score_rows(arm: ArmRecord, attack: AttackRecord, victim: VictimRecord, judge: Judge) -> Iterator[tuple[Any, ...]]:
    start = (arm.name, attack.label, victim.round, "+".join(map(str, victim.clients)) or victim.client)
    end = (
        victim.objective,
        victim.objective_at_truth,
        victim.iterations,
        victim.stopped,
        victim.seconds,
        victim.failure,
    )
    if victim.failure is not None or not victim.examples:
        yield (*start, *(None,) * 12, False, *end)
        return
    for sentence in victim.sentences:
        rouge = (sentence.rouge_1, sentence.rouge_2, sentence.rouge_l)
        yield (
            *start,
            sentence.index,
            *(None,) * 6,
            sentence.token_accuracy,
            *rouge,
            sentence.secret_is_read,
            sentence.exact,
            *end,
        )
    for item in victim.scores:
        is_success = succeeded(item, judge.scoring.metric, judge.scoring.threshold)
        scored = (item.index, item.label, item.guessed_label, item.mse, item.mse_normalised, item.psnr, item.ssim)
        yield (*start, *scored, *(None,) * 5, is_success, *end)


def _result(arm: ArmRecord, attack: AttackRecord, judge: Judge) -> Result:
    summary = judge.summary(attack)
    count = judge.count(attack)
    if summary is None or not has_result(attack):
        reasons = dict.fromkeys(victim.failure for victim in attack.victims if victim.failure)
        return _no_result(arm, attack, judge, "; ".join(reasons) or "no victim was attacked")
    text = summary.text or TextSummary(token_accuracy=None, rouge_l=None)
    return Result(
        attack=attack.label,
        is_control=judge.is_control(arm, attack),
        n=count.victims,
        recovered=f"{count.recovered} of {count.images}",
        success=estimate(summary.success, 100, 0, "%"),
        psnr=estimate(summary.psnr_median, 1, 1, " dB"),
        ssim=estimate(summary.ssim_mean, 1, 2),
        labels=estimate(summary.label_accuracy, 100, 0, "%"),
        masks=estimate(summary.mask_accuracy, 100, 1, "%"),
        tokens=estimate(text.token_accuracy, 100, 0, "%"),
        rouge=tuple(estimate(own, 1, 2) for own in (text.rouge_1, text.rouge_2, text.rouge_l)),
        secrets=estimate(text.secrets, 100, 0, "%"),
        seconds=_duration(sum(victim.seconds for victim in attack.victims) / count.victims),
        reason="",
    )


def _no_result(arm: ArmRecord, attack: AttackRecord, judge: Judge, reason: str) -> Result:
    none = Estimate(NOTHING)
    return Result(
        attack=attack.label,
        is_control=judge.is_control(arm, attack),
        n=len(attack.victims),
        recovered=NOTHING,
        success=none,
        psnr=none,
        ssim=none,
        labels=none,
        masks=none,
        tokens=none,
        rouge=(none,) * 3,
        secrets=none,
        seconds=NOTHING,
        reason=reason,
    )


def _inference(own: MembershipRecord) -> Inference:
    summary = own.summary
    rounds = f"round {', '.join(map(str, own.rounds))}"
    return Inference(
        attack=own.label,
        settings=", ".join([own.name, *(f"{key} = {value}" for key, value in own.settings.items())]),
        judged="final model" if own.target == "model" else f"client {own.client}, {rounds}",
        n=f"{own.members:,} + {own.non_members:,}",
        auc=estimate(summary.auc if summary else None, 1, 2),
        advantage=f"{summary.advantage:.2f}" if summary else NOTHING,
        low=tuple(
            estimate(low.tpr, 100, 1, "%") if low.tpr else Estimate("n too small")
            for low in (summary.low_fpr if summary else ())
        ),
        reason=own.failure or "",
    )


def estimate(interval: Interval | None, scale: float, digits: int, unit: str = "") -> Estimate:
    """Return a number with its unit and interval, as text."""
    if interval is None:
        return Estimate(NOTHING)
    return Estimate(f"{interval.value * scale:.{digits}f}{unit}", bounds(interval, scale, digits))


def _model(arm: ArmRecord) -> str:
    return f"{arm.attacked_model} model, {arm.parameters:,} parameters"


def cost(own: ClientCost | None) -> str:
    """Return what a client's round took, for people; nothing where it was not recorded."""
    if own is None:
        return ""
    memory = "" if own.peak_memory is None else f" and at most {own.peak_memory / 2**20:,.0f} MiB of memory"
    return f"a client's round took {own.processor_seconds:.2g} s of processor time{memory}"


def _accuracy(arm: ArmRecord) -> str:
    evaluated = [entry for entry in arm.rounds if entry.utilities]
    if not evaluated:
        return "accuracy not evaluated"
    last = evaluated[-1]
    return f"test {' and '.join(f'{own.name} {own.told}' for own in last.utilities[::-1])} after round {last.round}"


def _diagnosis(attack: AttackRecord, victim: VictimRecord, judge: Judge) -> Diagnosis:
    return Diagnosis(
        attack=attack.label,
        victim=f"round {victim.round}, {victim.who}",
        objective=_scientific(victim.objective),
        at_truth=_scientific(victim.objective_at_truth),
        iterations=f"{victim.iterations:,} (best at {victim.best_iteration:,})",
        stopped=victim.stopped,
        reading=_reading(victim, judge),
        notes=(*victim.notes, *(f"{name}: {figure:.1%}" for name, figure in victim.found.items())),
    )


def _reading(victim: VictimRecord, judge: Judge) -> str:
    """How many images were recovered, and why not the others."""
    recovered = judge.recovered(victim)
    if victim.examples and recovered == victim.examples:
        return "recovered"
    return "; ".join((f"{recovered} of {victim.examples} recovered", *victim.why))


def _turnout(entry: RoundRecord) -> Turnout:
    lost = Counter(failure.cause for failure in entry.failures)
    asked = len(entry.cohort)
    return Turnout(entry.round, asked, asked - lost.total(), tuple(lost[cause] for cause in CAUSES))


def _attended(rounds: tuple[Turnout, ...]) -> str:
    asked, counted = sum(turnout.asked for turnout in rounds), sum(turnout.counted for turnout in rounds)
    totals = [sum(column) for column in zip(*(turnout.lost for turnout in rounds), strict=True)]
    lost = [f"{total:,} {cause}" for cause, total in zip(CAUSES, totals, strict=True) if total]
    blank = sum(turnout.counted == 0 for turnout in rounds)
    sentence = f"Of {_counted(asked, 'update')} that the server asked for in {_counted(len(rounds), 'round')}, "
    sentence += f"{counted:,} counted" + (f"; lost: {', '.join(lost)}." if lost else ".")
    return sentence + (f" Nobody counted in {_counted(blank, 'round')}, which kept the weights." if blank else "")


def _clients_by_reason(entry: RoundRecord) -> dict[str, list[str]]:
    """Return who was left out of a round by reason, so that many drop-outs do not fill the page."""
    reasons: dict[str, list[str]] = {}
    for failure in entry.failures:
        reasons.setdefault(failure.why, []).append(failure.who)
    return reasons


def _owned(partition: PartitionRecord) -> str:
    sizes = f"between {partition.examples_min:,} and {partition.examples_max:,} examples, median "
    sizes += f"{partition.examples_median:,g}"
    if partition.examples_min == partition.examples_max:
        sizes = _counted(partition.examples_min, "example")
    measured = f"the first {partition.clients_measured:,} own"
    if partition.clients_measured == partition.clients:
        measured = "each owns"
    return f"{partition.clients:,} clients, scheme {partition.scheme}: {measured} {sizes}."


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _failed_attacks(arm: ArmRecord, attack: AttackRecord) -> list[LeftOut]:
    """Return one row a reason and round, so that an attack that never applied does not fill the page."""
    victims: dict[tuple[int, str], list[VictimRecord]] = {}
    for victim in attack.victims:
        if victim.failure is not None:
            victims.setdefault((victim.round, victim.failure), []).append(victim)
    return [
        LeftOut(f"{arm.name}, round {number}, attack {attack.label}", _names(of_round), why)
        for (number, why), of_round in victims.items()
    ]


def _names(victims: list[VictimRecord]) -> str:
    """Return who these victims are; of one round there are either single clients or one sum."""
    if victims[0].clients:
        return victims[0].who
    return f"client {', '.join(str(victim.client) for victim in victims)}"


def _scientific(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2e}"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"  # noqa: PLR2004 - three digits at most
