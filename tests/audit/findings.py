"""Records of audits that never happened."""

from fedsim.audit.record import AuditPlan, AuditRecord, Inspection, Training, Trial
from fedsim.audit.thresholds import MEMBERS_FOUND
from fedsim.metrics.statistics import summarise
from fedsim.metrics.success import Rule
from fedsim.questions.exposure import ITEMS
from fedsim.record import Columns, Finding, GuaranteeRecord, Interval, ItemScore, VictimRecord
from fedsim.record.environment import environment
from fedsim.record.policy import Policy

HOSTILE = "pkg:<script>alert(1)</script>"

LEARNED = Training(rounds=5, batch_size=4, test_examples=100, accuracy=0.5, guessing=0.2, loss=1.0, seconds_a_round=0.1)

ENOUGH = 40  # updates, none recovered: at most 9 % with their interval


def inspection(recovered: int, of: int = 4, batch: int = 1, iterations: int = 500, **victim: object) -> Inspection:
    """Return what was found in as many updates of one image, by searches that converged."""
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
    summary = summarise(victims, Rule.of("ssim", 0.5), 0)
    return Inspection(batch_size=batch, iterations=iterations, victims=victims, summary=summary)


def trial(name: str, recovered: int, lost: float, of: int = ENOUGH, **found: object) -> Trial:
    return Trial(
        name=name,
        settings={"scale": 0.1},
        inspection=inspection(recovered, of, **found),  # type: ignore[arg-type]
        training=LEARNED,
        accuracy_loss=Interval(value=lost, low=lost - 0.01, high=lost + 0.01, n=100),
        loss_change=0.1,
        slowdown=1.5,
    )


def exposure() -> tuple[Finding, ...]:
    """Return that a model remembers secrets which were planted often, and not those planted once."""
    return tuple(
        Finding(
            question="exposure",
            label=f"canary x {repetitions}",
            about={"secrets": "canary", "repetitions": repetitions},
            role="attack" if repetitions else "chance",
            metric="exposure",
            value=Interval(value=bits, low=bits - 0.5, high=bits + 0.5, n=8),
            limit=7.65,
            more={"secrets_written": Interval(value=0.0, low=0.0, high=0.3, n=8)},
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
    about = {"target": "model", "members": 100, "others": 100}
    return Finding(
        question="membership", label=label, method="lira", about=about, metric="auc", value=None if failure else auc,
        chance=0.5, more=rate, failure=failure,
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
        against="the server",
    )


def record(policy: Policy, **found: object) -> AuditRecord:
    base = AuditRecord(
        status="finished",
        plan=AuditPlan(target=HOSTILE),
        policy=policy,
        environment=environment("fedsim audit"),
        started="now",
        inspections=(inspection(4),),
        control=inspection(4),
        training=LEARNED,
    )
    return base.model_copy(update=found)
