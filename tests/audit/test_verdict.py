"""What the thresholds make of a record, and that the page shows hostile names as text."""

from pathlib import Path

import pytest

from fedsim.audit import page, running, screen, verdict
from fedsim.audit.record import AuditRecord, Inspection, Plan, Training, Trial
from fedsim.core.errors import FedsimError
from fedsim.metrics.statistics import summarise
from fedsim.record import Interval, ItemScore, MembershipRecord, MembershipSummary, TruePositives, VictimRecord
from fedsim.record.environment import environment
from fedsim.record.policy import Policy

HOSTILE = "pkg:<script>alert(1)</script>"


def inspection(recovered: int, of: int = 4, batch: int = 1) -> Inspection:
    """Return what was found in as many updates of one image."""
    victims = tuple(
        VictimRecord(
            round=number + 1,
            client=0,
            scores=(ItemScore(index=0, mse=0, mse_normalised=0, psnr=30, ssim=float(hit), label=1, guessed_label=1),),
        )
        for number, hit in enumerate([True] * recovered + [False] * (of - recovered))
    )
    return Inspection(batch_size=batch, iterations=9, victims=victims, summary=summarise(victims, "ssim", 0.5, 0))


def trial(name: str, recovered: int, lost: float) -> Trial:
    return Trial(
        name=name,
        settings={"scale": 0.1},
        inspection=inspection(recovered),
        training=Training(rounds=5, batch_size=4, test_examples=20, accuracy=0.5, loss=1.0, seconds_a_round=0.1),
        accuracy_loss=Interval(value=lost, low=lost - 0.01, high=lost + 0.01, n=20),
        loss_change=0.1,
        slowdown=1.5,
    )


def membership(tpr: float | None) -> MembershipRecord:
    found = None if tpr is None else Interval(value=tpr, low=0.0, high=1.0, n=100)
    auc = Interval(value=0.6, low=0.5, high=0.7, n=200)
    summary = MembershipSummary(auc=auc, advantage=0.1, low_fpr=(TruePositives(fpr=0.01, tpr=found),), roc=())
    return MembershipRecord(
        label="lira", name="lira", settings={}, target="model", members=100, non_members=100, summary=summary
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
    )
    return base.model_copy(update=found)


def test_thresholds_are_upper_bounds_and_what_reaches_them_keeps_them() -> None:
    assert verdict.broken(record(Policy(max_recognisable=0.5), inspections=(inspection(2),))) == ()
    (broken,) = verdict.broken(record(Policy(max_recognisable=0.5), inspections=(inspection(3, batch=7),)))
    assert broken == "max_recognisable = 0.5, but 75 % of the attacked images of batch 7 were recovered."


def test_membership_is_judged_only_where_there_are_enough_others() -> None:
    policy = Policy(max_membership_tpr=0.1)
    assert "lira finds 20 % of the members" in verdict.broken(record(policy, membership=(membership(0.2),)))[0]
    unknown = record(policy, membership=(membership(None),))
    assert verdict.broken(unknown) == ()
    assert "max_membership_tpr was not judged" in verdict.unjudged(unknown)[0]


def test_a_client_without_a_guarantee_breaks_a_bound_on_epsilon() -> None:
    (broken,) = verdict.broken(record(Policy(max_epsilon=8)))
    assert broken == "max_epsilon = 8, but nothing in the client states an epsilon."


def test_the_cheapest_defense_that_keeps_the_policy_is_recommended() -> None:
    trials = (trial("free", 4, 0.0), trial("dear", 0, 0.04), trial("fair", 0, 0.01), trial("ruinous", 0, 0.4))
    found = record(Policy(max_recognisable=0.1, max_accuracy_loss=0.05), trials=trials)
    assert [own.name for own in verdict.ranked(found)] == ["fair", "dear", "ruinous", "free"]
    text = verdict.sentence(found)
    assert text.startswith("Recommended: fair (scale = 0.1). With it 0 % of the images of batch 1 were recovered")
    assert "costs +1.0 (+0.0 to +2.0) points of test accuracy (n = 20) after 5 rounds" in text
    assert "No attack that failed is a guarantee." in text


def test_where_none_keeps_the_policy_none_is_recommended() -> None:
    found = record(Policy(max_recognisable=0.1), trials=(trial("weak", 3, 0.0), trial("weaker", 4, 0.0)))
    assert verdict.recommended(found) is None
    assert "None of the 2 defenses that were measured is enough. weak comes closest." in verdict.sentence(found)


def test_without_a_policy_what_lets_less_through_than_nothing_is_recommended() -> None:
    assert verdict.recommended(record(Policy(), trials=(trial("useless", 4, 0.0),))) is None
    best = verdict.recommended(record(Policy(), trials=(trial("useless", 4, 0.0), trial("some", 2, 0.1))))
    assert best is not None
    assert best.name == "some"


def test_what_the_clock_ended_is_no_success_of_the_defense() -> None:
    unknown = trial("unknown", 0, 0.0)
    assert unknown.inspection is not None
    unknown = unknown.model_copy(update={"inspection": unknown.inspection.model_copy(update={"is_short": True})})
    policy = Policy(max_recognisable=0.1)
    assert verdict.recommended(record(policy, trials=(unknown,))) is None
    assert verdict.sentence(record(policy, trials=(unknown,))).startswith("No attack on a defense came to its end")
    best = verdict.recommended(record(policy, trials=(unknown, trial("tested", 0, 0.04))))
    assert best is not None
    assert best.name == "tested"


def test_an_audit_without_a_guess_says_that_nothing_is_known() -> None:
    victims = (VictimRecord(round=1, client=0, failure="no guess within the time"),)
    none = Inspection(
        batch_size=1, iterations=9, victims=victims, summary=summarise(victims, "ssim", 0.5, 0), is_short=True
    )
    found = record(Policy(), inspections=(none,), control=none)
    assert verdict.sentence(found).startswith("No attack came to a guess within the time, so nothing is known.")
    assert screen.recovered(none) == "not known"
    found = record(Policy(), inspections=(none, inspection(0)), control=none)
    assert verdict.sentence(found).startswith("Nothing was recovered")
    assert screen.recovered(inspection(0)).startswith("0 (0 to")


def test_where_the_control_fails_nothing_is_recommended() -> None:
    found = record(Policy(max_recognisable=0.1), control=inspection(0), trials=(trial("any", 0, 0.0),))
    assert verdict.sentence(found).startswith("No defense can be recommended: in the short time")


def test_hostile_names_are_text_and_the_page_needs_no_network(tmp_path: Path) -> None:
    trials = (trial("<img src=x>", 0, 0.01),)
    page.write(record(Policy(max_recognisable=0.1), trials=trials, membership=(membership(0.2),)), tmp_path)
    html = (tmp_path / "audit.html").read_text()
    assert "<script" not in html
    assert "<img src=x>" not in html
    assert "&lt;img src=x&gt;" in html
    assert "http" not in html.replace("http-equiv", "")


def test_a_folder_that_cannot_be_made_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FedsimError, match="cannot write to"):
        running.prepare(tmp_path / "file" / "out")
