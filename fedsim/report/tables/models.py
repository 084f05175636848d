"""What trained models tell: members, and secrets that they remember."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.record import ExposureRecord, MembershipRecord, RunRecord
from fedsim.report.tables.figures import NOTHING, Estimate, estimate


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
    emission: Estimate
    guesses: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Memories:
    """What the trained model of one arm remembers of the planted secrets."""

    arm: str
    rows: tuple[Remembered, ...]


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
            emission=estimate(alike.emission, 100, 2, "%"),
            guesses=tuple(
                (secret.text, secret.guess)
                for secret in own.secrets
                if (secret.kind, secret.repetitions) == (alike.kind, alike.repetitions)
            ),
        )
        for alike in own.summaries
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
