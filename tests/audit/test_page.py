"""The page of an audit shows how long was searched and on how much, and hostile names as text."""

import pytest

from fedsim.audit import page
from fedsim.audit.groups import compare
from fedsim.judgement.policy import Policy
from fedsim.metrics.groups import GroupRisk
from fedsim.record import Interval, ItemScore
from fedsim.report.document.html import to_html
from tests.audit.findings import attacked, defended, exposure, membership, of_victims, record, secrets, shown


def test_terminal_and_page_show_how_long_and_on_how_much_was_searched() -> None:
    found = record(Policy(max_recovered=0.1), tried=(defended("any", 0, 0.0, iterations=40, converged=False),))
    text = shown(found)
    assert "0 (0 to 9) %" in text
    assert "updates: 40; searched: 40 it., 0 of 40 converged" in text
    assert "4  500 it., 4 of 4 converged" in text
    assert "undecided" in text
    html = to_html(page.build(found, {}))
    assert "undecided<br><small>40 of 40 searches did not converge within 40 iterations" in html
    assert '<td class="number">40 it., 0 of 40 converged</td><td class="number">0 (0 to 9) %</td>' in html
    assert "Recommended" not in html


def test_a_remark_on_several_defenses_stands_once_below_their_rows() -> None:
    names = ("one", "other", "third")
    tried = tuple(defended(name, 0, 0.0, iterations=40, converged=False) for name in names)
    html = to_html(page.build(record(Policy(max_recovered=0.1), tried=tried), {}))
    assert html.count("40 of 40 searches did not converge within 40 iterations") == 2  # and in the recommendation
    assert html.count("one, other, third: 40 of 40 searches did not converge within 40 iterations") == 1
    assert html.count(">undecided</td>") == len(names)


@pytest.mark.parametrize(("policy", "times"), [(Policy(), 1), (Policy(max_recovered=1.0), 0)])
def test_without_a_policy_page_and_terminal_say_what_exit_code_0_means(policy: Policy, times: int) -> None:
    said, found = "exit code 0 says only that the audit ran", record(policy)
    assert shown(found).count(said) == to_html(page.build(found, {})).count(said) == times


def test_a_narrow_screen_shows_the_table_of_members() -> None:
    text = shown(record(Policy(), findings=(membership(0.2),)), width=80)
    assert "batch 1  lira    AUC     0.60 [0.50 to 0.70]" in text


def test_what_every_update_failed_of_is_said_once() -> None:
    why = "every tensor of the update is zero, so no gradient can be matched."
    victims = [one.model_copy(update={"failure": why, "scores": ()}) for one in attacked(0, 3).victims]
    arm = of_victims(victims)
    last = page.update_row(record(Policy(), client=(arm,)), arm).cells[-1]
    assert (last.text, last.notes) == (why, ())


def test_hostile_names_are_text_and_the_page_needs_no_network() -> None:
    trials = (defended("<img src=x>", 0, 0.01),)
    html = to_html(page.build(record(Policy(max_recovered=0.1), tried=trials, findings=(membership(0.2),)), {}))
    assert html.count("<script") == 1  # its own, which the policy names by its hash
    assert "<img src=x>" not in html
    assert "&lt;img src=x&gt;" in html
    assert "http" not in html.replace("http-equiv", "")


def test_what_questions_found_stands_on_the_page_and_on_the_terminal() -> None:
    risk = {"sex f": GroupRisk(Interval(value=0.5, low=0.2, high=0.8, n=9), p=0.03)}
    findings = (membership(0.2), *exposure(), *compare("sex", "rows recovered", "success", risk))
    unfit = (("cvb", "it has no convolution"),)
    texts = ItemScore(index=0, values={"psnr": 30.0, "ssim": 0.0}, text="a private text", guess="a guess")
    read = attacked(0, scores=(texts,))
    found = record(Policy(), group="sex", findings=findings, items=secrets(), unfit=unfit, client=(attacked(4), read))
    whole = page.build(found, {})
    places = [section.place or section.title for section in whole.sections]
    assert places == [
        "attacker",
        "updates",
        "texts",
        "membership",
        "exposure",
        "Risk by sex",
        "defenses",
        "again",
        "words",
    ]
    html = to_html(whole)
    text = shown(found)
    for said in ("TPR at FPR 1%", "20.0%", "canary x 16", "0.50 (0.20 to 0.80)", "7.7 bits at most"):
        assert said in html, said
        assert said in text, said
    for said in ("it has no convolution", "a private text"):
        assert said in html
        assert said not in text, "what is folded, and what is private, is for who has the page"
    assert "fedsim audit" in html


def test_targets_stand_in_a_table_of_their_own_where_they_were_scored() -> None:
    values = {"psnr": 30.0, "ssim": 0.9, "target_error": 0.25, "target_error_guessed": 1.5, "target_read": 0.0}
    found = record(Policy(), client=(attacked(1, of=1, scores=(ItemScore(index=0, values=values),)),))
    shown = to_html(page.build(found, {}))
    assert "Targets read from updates" in shown
    assert "0.25 sd" in shown
    assert "1.50 sd" in shown
    assert "Targets read from updates" not in to_html(page.build(record(Policy(), client=(attacked(1),)), {}))
