"""Records of audits that never happened."""

import io
from collections.abc import Sequence

from rich.console import Console

from fedsim.audit import console as screen
from fedsim.audit.auditing import QUESTIONS
from fedsim.audit.limits import client_thresholds
from fedsim.audit.record import AuditArm, AuditPlan, AuditRecord, DefenseCost, Training
from fedsim.judgement.limits import MEMBERS_FOUND
from fedsim.judgement.policy import Policy
from fedsim.questions.attacks.question import finding_of
from fedsim.questions.exposure.question import ITEMS
from fedsim.record import Columns, Finding, GuaranteeRecord, Interval, ItemScore, VictimRecord
from fedsim.record.environment import environment
from fedsim.report.limits import policy_outcome
from fedsim.scenario import AttackChoice, Scoring

HOSTILE = "pkg:<script>alert(1)</script>"

LEARNED = Training(
    rounds=5, batch_size=4, test_examples=100, accuracy=0.5, majority_accuracy=0.2, loss=1.0, seconds_a_round=0.1
)

ENOUGH = 40  # updates, none recovered: at most 9 % with their interval


def attacked(recovered: int, of: int = 4, batch: int = 1, iterations: int = 500, **victim: object) -> AuditArm:
    """Return the client as it is, and what was made of as many updates of one image, by searches that converged."""
    victims = tuple(
        VictimRecord(
            round=number + 1,
            client=0,
            scores=(ItemScore(index=0, values={"psnr": 30.0, "ssim": float(hit)}, label=1, guessed_label=1),),
            iterations=iterations,
            converged=True,
        ).model_copy(update=victim)
        for number, hit in enumerate([True] * recovered + [False] * (of - recovered))
    )
    return of_victims(victims, batch)


def of_victims(victims: Sequence[VictimRecord], batch: int = 1) -> AuditArm:
    """Return the client as it is, with what was made of these updates."""
    finding = finding_of(AttackChoice(name="auto"), (), victims, Scoring(metric="ssim", threshold=0.5), 0)
    return AuditArm(name=f"batch {batch}", batch_size=batch, findings=(finding,))


def failed(why: str, batch: int = 16) -> AuditArm:
    """Return a batch size that does not work."""
    return AuditArm(name=f"batch {batch}", batch_size=batch, failure=why)


def defended(name: str, recovered: int, lost: float, of: int = ENOUGH, **of_updates: object) -> AuditArm:
    """Return the client with one more defense that costs so much accuracy."""
    cost = DefenseCost(
        accuracy_loss=Interval(value=lost, low=lost - 0.01, high=lost + 0.01, n=100), loss_change=0.1, slowdown=1.5
    )
    more = {"kind": "defense", "name": name, "settings": {"scale": 0.1}, "training": LEARNED, "cost": cost}
    return attacked(recovered, of, **of_updates).model_copy(update=more)  # type: ignore[arg-type]


def exposure() -> tuple[Finding, ...]:
    """Return that a model remembers secrets which were planted often, and not those planted once."""
    return tuple(
        Finding(
            question="exposure",
            label=f"canary x {repetitions}",
            scope={"secrets": "canary", "repetitions": repetitions},
            role="attack" if repetitions else "negative-control",
            metric="exposure",
            value=Interval(value=bits, low=bits - 0.5, high=bits + 0.5, n=8),
            max_value=7.65,
            extra_metrics={"secret_extraction_rate": Interval(value=0.0, low=0.0, high=0.3, n=8)},
            items=ITEMS,
        )
        for repetitions, bits in ((0, 1.5), (1, 1.9), (16, 6.1))
    )


def secrets() -> dict[str, Columns]:
    """Return the table of these secrets."""
    repetitions = [0] * 8 + [1] * 8 + [16] * 8
    return {ITEMS: {"repetitions": repetitions, "uses": [4 * number for number in repetitions]}}


def membership(tpr: float | None, low: float = 0.0, label: str = "lira", failure: str = "") -> Finding:
    auc = Interval(value=0.6, low=0.5, high=0.7, n=200)
    rate = {} if tpr is None else {MEMBERS_FOUND: Interval(value=tpr, low=low, high=1.0, n=100)}
    about = {"target": "model", "members": 100, "non_members": 100}
    return Finding(
        question="membership", label=label, method="lira", scope=about, metric="auc", value=None if failure else auc,
        chance_level=0.5, extra_metrics=rate, failure=failure,
    )  # fmt: skip


def guarantee(epsilon: float) -> GuaranteeRecord:
    return GuaranteeRecord(
        source="dp-sgd",
        epsilon=epsilon,
        delta=1e-5,
        rdp_epsilon=epsilon + 1,
        accountant="PRV",
        unit="record",
        adjacency="add-or-remove",
        noise_multiplier=1.0,
        sampling_rate=0.1,
        steps=10,
        composition="10 steps",
        adversary="the server",
    )


def as_control(arm: AuditArm) -> AuditArm:
    """Return the client as it is, attacked like the defenses."""
    return arm.model_copy(update={"kind": "control", "name": f"control, {arm.name}"})


_CONTROL = as_control(attacked(4))


def record(
    policy: Policy,
    *,
    client: Sequence[AuditArm] | None = None,
    control: AuditArm | None = _CONTROL,
    tried: Sequence[AuditArm] = (),
    findings: Sequence[Finding] = (),
    items: dict[str, Columns] | None = None,
    training: Training | None = LEARNED,
    guarantees: Sequence[GuaranteeRecord] = (),
    **more: object,
) -> AuditRecord:
    """Return an audit of the client, whose first arm trained, of its control, and of defenses that were tried."""
    first, *rest = (attacked(4),) if client is None else client
    trained = first.with_findings(findings, items or {})
    trained = trained.model_copy(update={"training": training, "guarantees": tuple(guarantees)})
    base = AuditRecord(
        status="finished",
        plan=AuditPlan(target=HOSTILE),
        policy=policy,
        environment=environment("fedsim audit"),
        started="now",
        questions=QUESTIONS,
        arms=(trained, *rest, *([control] if control else []), *tried),
    )
    return base.model_copy(update=more).with_declarations()


def exit_code_of(found: AuditRecord) -> int:
    """Return the exit code of `fedsim audit`."""
    return policy_outcome(found.policy, client_thresholds(found)).exit_code


def shown(audited: AuditRecord, width: int = 200) -> str:
    """Return what an audit prints."""
    console = Console(width=width, record=True, file=io.StringIO())
    screen.show(audited, console)
    return console.export_text()
