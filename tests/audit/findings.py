"""Records of audits that never happened."""

from fedsim.audit.record import AuditRecord, Inspection, Plan, Training, Trial
from fedsim.metrics.statistics import summarise
from fedsim.metrics.success import Rule
from fedsim.record import (
    ExposureRecord,
    GuaranteeRecord,
    Interval,
    ItemScore,
    MembershipRecord,
    MembershipSummary,
    SecretScore,
    SecretSummary,
    TruePositives,
    VictimRecord,
)
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


def exposure() -> ExposureRecord:
    """Return that a model remembers secrets which were planted often, and not those planted once."""
    secrets, summaries = list[SecretScore](), list[SecretSummary]()
    for repetitions, bits in ((0, 1.5), (1, 1.9), (16, 6.1)):
        alike = [
            SecretScore(
                kind="canary",
                text="1 2 3 4",
                repetitions=repetitions,
                uses=4 * repetitions,
                exposure=bits,
                candidates=200,
                is_exact=False,
                guess="1 2 5 5",
                extracted=False,
            )
        ] * 8
        secrets += alike
        found = Interval(value=bits, low=bits - 0.5, high=bits + 0.5, n=8)
        written = Interval(value=0.0, low=0.0, high=0.3, n=8)
        summaries.append(
            SecretSummary(kind="canary", repetitions=repetitions, exposure=found, most=7.65, extracted=written)
        )
    return ExposureRecord(secrets=tuple(secrets), summaries=tuple(summaries))


def membership(tpr: float | None, low: float = 0.0) -> MembershipRecord:
    found = None if tpr is None else Interval(value=tpr, low=low, high=1.0, n=100)
    auc = Interval(value=0.6, low=0.5, high=0.7, n=200)
    summary = MembershipSummary(auc=auc, advantage=0.1, low_fpr=(TruePositives(fpr=0.01, tpr=found),), roc=())
    return MembershipRecord(
        label="lira", name="lira", settings={}, target="model", members=100, non_members=100, summary=summary
    )


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
        plan=Plan(target=HOSTILE),
        policy=policy,
        environment=environment("fedsim audit"),
        started="now",
        inspections=(inspection(4),),
        control=inspection(4),
        training=LEARNED,
    )
    return base.model_copy(update=found)
