"""What the thresholds make of a record."""

from typing import Any

import pytest

from fedsim.audit import page, sheet, table_cells, tables, verdict
from fedsim.audit.limits import best_membership
from fedsim.audit.record import AuditArm, AuditPlan
from fedsim.judgement.limits import BROKEN, UNDECIDED
from fedsim.judgement.policy import Policy
from fedsim.metrics.text import EVERY_WORD
from fedsim.questions.attacks.question import finding_of
from fedsim.record import ItemScore, VictimRecord
from fedsim.report.document.html import to_html
from fedsim.scenario import AttackChoice, Scoring
from tests.audit.findings import (
    ENOUGH,
    LEARNED,
    as_control,
    attacked,
    defended,
    exit_code_of,
    failed,
    guarantee,
    membership,
    of_victims,
    record,
)


@pytest.mark.parametrize(
    ("client", "state", "sentence"),
    [
        (
            [attacked(4)],
            "recovered",
            "Updates of one image give the image back in a readable form (4 of 4): 4 updates were attacked for 8 s.",
        ),
        (
            [attacked(0), attacked(0, batch=4, converged=False)],
            "undecided",
            "Undecided: no image came back from 8 updates of 1 and 4 images in 16 s, and the searches do not show "
            "that none could; an attack that succeeds, or a guarantee, would decide.",
        ),
        (
            [attacked(0)],
            "withstood",
            (
                "Withstood: no image came back from 4 updates of one image in 8 s, and a longer search would "
                "not help; that is no guarantee."
            ),
        ),
        (
            [attacked(0, failure="diverged."), attacked(0, batch=4, failure="diverged"), attacked(0, failure="NaN")],
            "undecided",
            "Undecided: every attack failed (diverged; NaN). A failed attack is no evidence.",
        ),
        (
            [attacked(0, values={EVERY_WORD: 1.0})],
            "recovered",
            "Updates of one image give every word away, though not its place: 4 updates were attacked for 8 s.",
        ),
    ],
)
def test_the_answer_is_one_sentence_about_the_batch_sizes_that_say_most(
    client: list[AuditArm], state: str, sentence: str
) -> None:
    timed = [
        of_victims([one.model_copy(update={"seconds": 2.0}) for one in arm.victims], arm.batch_size) for arm in client
    ]
    assert verdict.answer(record(Policy(), client=timed)) == (state, sentence)


def guessed(*values: tuple[float, float, float], batch: int = 4, updates: int = 1) -> AuditArm:
    """Return the client whose updates were attacked; of each image identified, SSIM and exact."""
    scores = tuple(
        ItemScore(index=index, values={"identified": named, "psnr": 9.5, "ssim": likeness, "exact_pixels": exact})
        for index, (named, likeness, exact) in enumerate(values)
    )
    victims = [VictimRecord(round=1, client=0, scores=scores, seconds=2.0)] * updates
    finding = finding_of(AttackChoice(name="auto"), (), victims, Scoring(), 0)
    return AuditArm(name=f"batch {batch}", batch_size=batch, findings=(finding,))


NOISE, NAMED, LEGIBLE, EXACT = (0.0, 0.1, 0.0), (1.0, 0.2, 0.0), (1.0, 0.6, 0.0), (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("values", "deed"),
    [
        ((NAMED, NAMED, NAMED, NAMED), "let images be identified (4 of 4; none readable)"),
        ((NAMED, NAMED, NOISE, NOISE), "let images be identified (2 of 4; none readable)"),
        ((NAMED, LEGIBLE, LEGIBLE, EXACT), "let images be identified (4 of 4; 1 exact; 2 readable)"),
        ((NAMED, EXACT, EXACT, NOISE), "let images be identified (3 of 4; 2 exact)"),
        ((LEGIBLE, LEGIBLE, NOISE, NOISE), "give images back in a readable form (2 of 4)"),
        ((LEGIBLE, EXACT, EXACT, NOISE), "give images back in a readable form (3 of 4; 2 exact)"),
        ((EXACT, EXACT, NOISE, NOISE), "give images back exactly (2 of 4)"),
    ],
)
def test_images_that_were_only_identified_are_not_given_back(
    values: tuple[tuple[float, float, float], ...], deed: str
) -> None:
    stated = verdict.answer(record(Policy(), client=(guessed(*values),))).sentence
    assert stated == f"Updates of 4 images {deed}: 1 update was attacked for 2 s."


def test_where_searches_were_short_the_answer_says_how_many_minutes_would_do() -> None:
    short = record(Policy(), client=(attacked(0, converged=False),), needed_minutes=12)
    assert verdict.answer(short).sentence.endswith(
        "none could; --minutes 12 allows searches as long as in the literature."
    )


def test_where_the_policy_needs_more_updates_the_answer_says_how_many() -> None:
    few = record(Policy(max_recovered=0.1), client=(attacked(0),))
    assert verdict.answer(few).sentence.endswith(
        "that is no guarantee; about 31 more updates and 1 more minute would decide, if the share stays the same "
        "(--updates 35)."
    )


def test_thresholds_are_upper_bounds_and_what_reaches_them_keeps_them() -> None:
    assert verdict.broken(record(Policy(max_recovered=0.5), client=(attacked(2),))) == ()
    undecided = record(Policy(max_recovered=0.5), client=(attacked(3),))
    assert verdict.broken(undecided) == ()  # 3 of 4 may be 30 %
    assert "n = 4 leaves 30 to 95 % open and the limit is 50 %" in verdict.undecided_sentences(undecided)[0]
    (broken,) = verdict.broken(record(Policy(max_recovered=0.5), client=(attacked(30, 40, batch=7),)))
    assert broken == "max_recovered = 0.5, but 75 % (60 to 86) of the attacked examples of batch 7 were identified."


def test_membership_is_judged_only_where_there_are_enough_others() -> None:
    policy = Policy(max_membership_tpr=0.1)
    assert verdict.broken(record(policy, findings=(membership(0.2),))) == ()  # its interval begins at 0
    found = membership(0.2, low=0.13)
    assert "lira finds 20 % of the members" in verdict.broken(record(policy, findings=(found,)))[0]
    unknown = record(policy, findings=(membership(None),))
    assert verdict.broken(unknown) == ()
    assert "max_membership_tpr was not judged" in verdict.undecided_sentences(unknown)[0]


@pytest.mark.parametrize("rates", [(0.1, 0.6), (0.6, 0.1)])
def test_of_several_membership_attacks_the_best_is_judged(rates: tuple[float, float]) -> None:
    attacks = [membership(rate, low=rate - 0.05, label=f"finds {rate}") for rate in rates]
    found = (membership(None), *attacks)
    best = best_membership(found)
    assert (best[0], best[1].value) == ("finds 0.6", 0.6)
    (broken,) = verdict.broken(record(Policy(max_membership_tpr=0.3), findings=found))
    assert broken == "max_membership_tpr = 0.3, but finds 0.6 finds 60 % of the members at 1 % false positives."
    assert verdict.undecided_sentences(record(Policy(max_membership_tpr=0.3), findings=found)) == ()
    assert best_membership((membership(None),)) is None


@pytest.mark.parametrize("stated", [(1.0, 9.0), (9.0, 1.0)])
def test_of_several_guarantees_the_weakest_is_judged_and_stated(stated: tuple[float, float]) -> None:
    both = tuple(map(guarantee, stated))
    (broken,) = verdict.broken(record(Policy(max_epsilon=8), guarantees=both))
    assert broken == "max_epsilon = 8, but the weakest guarantee is epsilon 9."
    assert verdict.broken(record(Policy(max_epsilon=9), guarantees=both)) == ()  # what reaches a limit keeps it
    kept = defended("dp", 0, 0.0).model_copy(update={"guarantees": both})
    text = verdict.sentence(record(Policy(max_recovered=0.1, max_epsilon=9), tried=(kept,), guarantees=both))
    assert text.endswith("Guarantee: epsilon 9.")


def test_of_several_batch_sizes_each_is_judged_by_itself() -> None:
    policy = Policy(max_recovered=0.2)
    sizes = (
        attacked(0, ENOUGH),
        attacked(30, 40, batch=4),
        attacked(1, 4, batch=8),
        attacked(40, 40, batch=16),
    )
    found = record(policy, client=sizes)
    assert [sentence.rpartition("batch ")[2] for sentence in verdict.broken(found)] == [
        "4 were identified.",
        "16 were identified.",
    ]
    (undecided,) = verdict.undecided_sentences(found)
    assert undecided.startswith("Undecided: max_recovered on batch 8, since n = 4 leaves 5 to 70 % open")
    assert exit_code_of(found) == BROKEN


def test_a_client_without_a_guarantee_breaks_a_bound_on_epsilon() -> None:
    (broken,) = verdict.broken(record(Policy(max_epsilon=8)))
    assert broken == "max_epsilon = 8, but nothing in the client states an epsilon."


def test_the_cheapest_defense_that_keeps_the_policy_is_recommended() -> None:
    trials = (
        defended("free", 40, 0.0),
        defended("dear", 0, 0.035),
        defended("fair", 0, 0.01),
        defended("ruinous", 0, 0.4),
    )
    found = record(Policy(max_recovered=0.1, max_accuracy_loss=0.05), tried=trials)
    assert [own.name for own in verdict.rank(found)] == ["fair", "dear", "ruinous", "free"]
    text = verdict.sentence(found)
    assert text.startswith(
        "Recommended: fair (scale = 0.1). With it 0 % (0 to 9) of the examples of batch 1 were identified (40 updates, "
        "500 iterations)"
    )
    assert "costs +1.0 (+0.0 to +2.0) points of test accuracy (n = 100) after 5 rounds" in text
    assert text.endswith("Guarantee: none, and a failed attack is no guarantee.")
    only = verdict.sentence(record(Policy(max_recovered=0.1), tried=(defended("ruinous", 0, 0.4),)))
    assert "costs +40.0 (+39.0 to +41.0) points of test accuracy" in only


def test_a_defense_whose_time_ended_is_not_ranked_and_stands_in_the_table_once() -> None:
    late = defended("late", 0, 0.0).model_copy(update={"failure": "its 3 s were not enough"})
    found = record(Policy(max_recovered=0.1), tried=(late, defended("weak", 30, 0.0)))
    assert [arm.name for arm in verdict.rank(found)] == ["weak"]
    assert to_html(page.build(found, {})).count("undecided: its 3 s were not enough") == 1


@pytest.mark.parametrize(
    ("tried", "policy", "sentence"),
    [
        (
            (defended("clipping", 40, 0.0), defended("float16", 40, 0.0)),
            Policy(),
            "None of the 2 defenses that were measured helped: with each of them as many were identified as without, "
            "100 % (91 to 100).",
        ),
        (
            (defended("weak", 30, 0.0), defended("weaker", 40, 0.0)),
            Policy(max_recovered=0.1),
            "None of the 2 defenses that were measured is enough. weak comes closest.",
        ),
    ],
)
def test_where_none_keeps_the_policy_none_is_recommended(
    tried: tuple[AuditArm, ...], policy: Policy, sentence: str
) -> None:
    found = record(policy, tried=tried)
    assert verdict.recommend(found) is None
    assert sentence in verdict.sentence(found)


def test_without_a_policy_what_lets_less_through_than_nothing_is_recommended() -> None:
    assert verdict.recommend(record(Policy(), tried=(defended("useless", 40, 0.0),))) is None
    best = verdict.recommend(record(Policy(), tried=(defended("useless", 40, 0.0), defended("some", 4, 0.1))))
    assert best.name == "some"
    overlapping = record(Policy(), tried=(defended("some", 2, 0.1, of=4),))
    assert verdict.recommend(overlapping) is None
    assert verdict.sentence(overlapping).endswith("the intervals with and without it overlap.")


@pytest.mark.parametrize(
    ("searched", "reason"),
    [
        ({"converged": False}, "40 of 40 searches did not converge within 500 iterations"),
        ({"converged": None}, "whether 40 of 40 searches converged is not defined"),
        ({"converged": None, "stopped": "out of time"}, "the clock ended 40 of 40 searches"),
        ({"failure": "it broke"}, "no attack returned a guess"),
        ({"of": 30}, "n = 30 leaves 0 to 11 % open and the limit is 10 %: about 5 more updates"),
    ],
)
def test_without_evidence_a_defense_is_undecided(searched: dict[str, Any], reason: str) -> None:
    own = defended("any", 0, 0.0, **searched)
    found = record(Policy(max_recovered=0.1), tried=(own,))
    assert verdict.judge_defense(found, own) == "undecided"
    assert any(reason in said for said in verdict.missing_evidence(found, own))
    assert verdict.recommend(found) is None
    assert verdict.sentence(found).startswith("Undecided: no defense is recommended. any comes closest, but ")
    assert table_cells.format_policy_state(found, own) == "undecided"
    assert dict(zip(tables.DEFENSE_COLUMNS, tables.defenses(found)[1], strict=True))["keeps_policy"] == "undecided"


@pytest.mark.parametrize(
    ("recovered", "searched", "state"),
    [(0, {"iterations": 10}, "kept"), (0, {"of": 35}, "kept"), (40, {"iterations": 1}, "broken")],
)
def test_with_evidence_it_is_decided(recovered: int, searched: dict[str, Any], state: str) -> None:
    own = defended("any", recovered, 0.0, **searched)
    assert verdict.judge_defense(record(Policy(max_recovered=0.1), tried=(own,)), own) == state


def test_an_upper_limit_of_any_measure_is_kept_only_by_its_interval() -> None:
    own = defended("any", 0, 0.015)  # at most 2.5 points
    policy = Policy(max_recovered=0.1, max_accuracy_loss=0.02)
    assert verdict.missing_evidence(record(policy, tried=(own,)), own) == (
        "it may cost up to 2.5 points of test accuracy, and the limit is 2 points",
    )
    policy = Policy(max_recovered=0.1, max_membership_tpr=0.3)
    judged = own.with_findings([membership(0.2)], {})  # its interval reaches 1
    assert verdict.missing_evidence(record(policy, tried=(judged,)), judged) == (
        "lira may find up to 100 % of the members, and the limit is 30 %",
    )
    assert "max_membership_tpr was not judged" in verdict.missing_evidence(record(policy, tried=(own,)), own)[0]


def test_a_client_that_learns_nothing_without_a_defense_measures_no_cost() -> None:
    idle = LEARNED.model_copy(update={"accuracy": 0.27})  # with 100 test examples the interval reaches 0.2
    own = defended("any", 0, 0.0)
    found = record(Policy(max_recovered=0.1), training=idle, tried=(own,))
    assert verdict.judge_defense(found, own) == "undecided"
    assert (
        "the training learned nothing (test accuracy 27 %, always the most frequent answer 20 %)"
        in verdict.sentence(found)
    )
    assert verdict.judge_defense(record(Policy(max_recovered=0.1), tried=(own,)), own) == "kept"


def test_the_client_itself_is_undecided_where_its_attacks_prove_nothing() -> None:
    policy = Policy(max_recovered=0.1)
    short = attacked(0, 4, iterations=40, converged=False)
    found = record(policy, client=(attacked(4), short))
    assert len(verdict.broken(found)) == 1
    assert verdict.undecided_sentences(found) == (
        "Undecided: max_recovered on batch 1, since 4 of 4 searches did not converge within 40 iterations: the "
        "examples explain the update better than the guess, so it may hold them; n = 4 leaves 0 to 49 % open and the "
        "limit is 10 %: about 31 more updates and 1 more minute would decide, if the share stays the same "
        "(--updates 35).",
    )
    assert verdict.undecided_sentences(record(policy, client=(attacked(0, ENOUGH),))) == ()
    broken = record(policy, client=(attacked(30, 40, converged=False),))
    assert verdict.undecided_sentences(broken) == ()  # what was recovered needs no long search
    blind = attacked(0, scores=())
    assert verdict.undecided_sentences(record(policy, client=(blind,))) == (
        "Undecided: max_recovered was not judged, since no reconstruction was scored.",
    )


@pytest.mark.parametrize(
    "client",
    [
        [failed("its 3 s were not enough", batch=1), failed("it broke", batch=4)],
        [failed("it broke", batch=1), attacked(0, batch=4, failure="diverged")],
    ],
)
def test_an_audit_whose_every_batch_size_failed_keeps_no_threshold(client: list[AuditArm]) -> None:
    found = record(Policy(max_recovered=0.1), client=client, control=None)
    assert exit_code_of(found) == UNDECIDED
    assert exit_code_of(record(Policy(max_recovered=0.1, undecided="pass"), client=client, control=None)) == 0
    assert verdict.undecided_sentences(found)
    assert verdict.unused_time_reason(found) == ""  # more updates could change the verdict
    for text in (to_html(sheet.build(found)), to_html(page.build(found, {}))):
        assert "Undecided: every attack failed (" in text
        assert "No threshold of the policy is broken" not in text


def test_an_audit_that_ended_before_the_first_update_is_undecided() -> None:
    found = record(Policy(max_recovered=0.1)).model_copy(update={"arms": ()})
    assert exit_code_of(found) == UNDECIDED
    assert verdict.answer(found) == (
        "undecided",
        "Undecided: no update was attacked within the time. Give the audit more minutes.",
    )


def test_an_audit_without_a_guess_says_that_nothing_is_known() -> None:
    victims = (VictimRecord(round=1, client=0, failure="no guess within the time"),)
    none = of_victims(victims)
    found = record(Policy(), client=(none,), control=as_control(none))
    assert verdict.answer(found).sentence == (
        "Undecided: no attack returned a guess within the time. Give the audit more minutes."
    )
    assert verdict.sentence(found).startswith("No defense is recommended: without a guess")
    assert table_cells.format_recovered(none) == "not known"
    found = record(Policy(), client=(none, attacked(0, batch=4)), control=as_control(none))
    assert verdict.sentence(found) == (
        "Undecided: nothing was recovered without further defenses, but no attack returned a guess."
    )
    found = record(Policy(), client=(attacked(0),), control=as_control(attacked(0)))
    assert verdict.sentence(found).startswith("The updates withstood: nothing was recovered")
    assert table_cells.format_recovered(attacked(0)).startswith("0 (0 to")


def test_where_the_control_fails_nothing_is_recommended() -> None:
    found = record(Policy(max_recovered=0.1), control=as_control(attacked(0)), tried=(defended("any", 0, 0.0),))
    assert verdict.sentence(found).startswith("Undecided: in the short time")
    assert verdict.recommend(found) is None


def test_a_pipeline_sees_what_is_undecided_unless_its_policy_lets_that_pass() -> None:
    open_ = (attacked(0, ENOUGH, converged=False),)
    assert exit_code_of(record(Policy(max_recovered=0.1), client=open_)) == UNDECIDED == 4
    assert exit_code_of(record(Policy(max_recovered=0.1, undecided="pass"), client=open_)) == 0
    assert exit_code_of(record(Policy(max_recovered=0.1), client=(attacked(0, ENOUGH),))) == 0
    assert exit_code_of(record(Policy(max_recovered=0.1), client=(attacked(4, converged=False),))) == 3
    assert exit_code_of(record(Policy(), client=open_)) == 0
    assert Policy(undecided="pass").is_empty


def test_time_that_is_left_is_explained() -> None:
    early = {"seconds": 30.0, "plan": AuditPlan(target="a", minutes=1.0)}
    assert verdict.unused_time_reason(record(Policy(), **early)).endswith("and every defense that fits was tried.")
    repeated = record(Policy(), **early, is_captured=True)  # of an app whose loop was trained again
    assert verdict.unused_time_reason(repeated).endswith("and every defense that fits was tried.")
    captured = record(Policy(), **early, is_captured=True, training=None)
    assert verdict.unused_time_reason(captured).endswith("and a captured update cannot be defended.")
