"""What trained models tell: each membership attack and each kind of secret is a row."""

from types import ModuleType

from fedsim.record import ExposureRecord, Interval
from fedsim.record.memorisation import SecretScore, SecretSummary
from fedsim.report.tables.figures import NOTHING
from fedsim.report.tables.models import memberships, memories


def test_arms_with_membership_attacks_have_a_table(records: ModuleType, sweeps: ModuleType) -> None:
    known = sweeps.membership("lira", 100)
    client = known.model_copy(update={"target": "updates", "client": 3, "rounds": (1, 4), "settings": {"shadows": 8}})
    none = known.model_copy(update={"summary": None, "failure": "no shadows"})
    arms = [records.arm("quiet", []), records.arm("told", [], membership=(known, client, none))]
    (table,) = memberships(records.run(arms))
    assert table.arm == "told"
    assert [row.judged for row in table.rows] == ["final model", "client 3, round 1, 4", "final model"]
    assert [row.settings for row in table.rows] == ["lira", "lira, shadows = 8", "lira"]
    first, _, failed = table.rows
    assert (first.n, first.auc.value, first.advantage, first.reason) == ("1,000 + 1,000", "0.60", "0.20", "")
    assert [low.value for low in first.low] == ["10.0%", "n too small"]
    assert (failed.auc.value, failed.advantage, failed.low, failed.reason) == (NOTHING, NOTHING, (), "no shadows")


def secret(text: str, repetitions: int, guess: str) -> SecretScore:
    return SecretScore(
        kind="canary", text=text, repetitions=repetitions, uses=repetitions, exposure=3.0, candidates=8, is_exact=True,
        guess=guess, extracted=text == guess,
    )  # fmt: skip


def alike(repetitions: int, extracted: float) -> SecretSummary:
    return SecretSummary(
        kind="canary",
        repetitions=repetitions,
        exposure=Interval(value=3.0, low=2.0, high=3.0, n=2),
        most=3.0,
        extracted=Interval(value=extracted, low=0.0, high=1.0, n=2),
    )


def test_secrets_stand_with_those_that_were_planted_equally_often(records: ModuleType) -> None:
    exposure = ExposureRecord(
        secrets=(secret("a", 1500, "a"), secret("b", 0, "a"), secret("c", 1500, "x")),
        summaries=(alike(1500, 0.5), alike(0, 0.0)),
    )
    arms = [records.arm("plain", []), records.arm("planted", [], exposure=exposure)]
    (table,) = memories(records.run(arms))
    often, control = table.rows
    assert table.arm == "planted"
    assert (often.repetitions, control.repetitions) == ("1,500", "0 (control)")
    assert (often.guesses, control.guesses) == ((("a", "a"), ("c", "x")), (("b", "a"),))
    assert (often.extracted.value, control.extracted.value) == ("50%", "0%")
    assert (often.exposure.value, often.most, often.found.value) == ("3.00", "3.00", NOTHING)
