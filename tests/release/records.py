"""Records of release checks that were never run."""

from pathlib import Path

from fedsim.judgement.policy import Policy
from fedsim.record import ArmFindings, Environment, Finding, Interval
from fedsim.release import verdict
from fedsim.release.record import ReleasePlan, ReleaseRecord

RARE = "tpr_at_fpr_0.01"


def figure(low: float, value: float, high: float, p: float = 1.0, **more: object) -> tuple[Finding, Finding]:
    """Return a figure of an attack and its control."""
    measured = Interval(value=value, low=low, high=high, n=200)
    given = {
        "question": "membership",
        "label": "loss-threshold",
        "metric": "auc",
        "chance_level": 0.5,
        "value": measured,
    }
    attack = Finding.model_validate({**given, "p_value": p, **more})
    lucky = Interval(value=attack.chance_level or 0.0, low=0.0, high=1.0, n=200)
    shuffled = {"role": "negative-control", "label": f"{attack.label}, control", "value": lucky, "p_value": None}
    return attack, attack.model_copy(update=shuffled)


def record(*pairs: tuple[Finding, ...], others: int = 100, **policy: object) -> ReleaseRecord:
    made = ReleaseRecord(
        plan=ReleasePlan(target="pkg:client", weights=Path("model.npz"), non_members="pkg:others"),
        policy=Policy.model_validate(policy),
        environment=Environment(
            command="fedsim release pkg:client model.npz",
            versions={},
            python="3",
            platform="any",
            processor="any",
            cores=1,
            torch_threads=1,
            git_commit=None,
            git_dirty=None,
        ),
        started="2026-01-01T00:00:00+00:00",
        hashes={"model.npz": "ab12"},
        parameters=1234,
        members=100,
        non_members=others,
        notes=("A note.",),
        arms=(ArmFindings(name="model", findings=verdict.judge_findings([one for pair in pairs for one in pair])),),
    )
    return made.with_declarations()
