"""The document: verdict first, each figure beside chance and shuffled labels, and what others ask for."""

from fedsim.record import Finding
from fedsim.release import page
from fedsim.report.document.html import to_html
from fedsim.report.document.markdown import to_markdown
from tests.release.records import figure, record


def test_the_verdict_stands_before_everything_and_each_figure_beside_luck() -> None:
    failed = Finding(question="membership", label="rmia", metric="auc", failure="no memory")
    text = to_markdown(page.build(record(figure(0.8, 0.9, 0.95, p=0.001), (failed,), max_membership_tpr=0.1)))
    before, _, after = text.partition("Recovered: members are distinguished from non-members")
    assert "#" in before
    assert "##" not in before
    row = "| loss-threshold | recovered | AUC | 200 | 0.90 (0.80 to 0.95) | 0.50 | 0.50 (0.00 to 1.00) | 0.001 | 800 |"
    assert row in after
    for said in (
        "Did not apply: rmia: no memory.",
        "100 members and 100 non-members",
        "ab12",
        "A note.",
        "max_membership_tpr | membership | undecided",
        "EDPB Opinion 28/2024",
        "SATRE 2.0.1, 3.3.07",
        "1 recovered, 0 undecided, 0 withstood",
        "which site an example came from: --sites was not given",
        "secrets planted before the training: --secrets was not given",
        "fedsim release pkg:client model.npz",
    ):
        assert said.replace("_", "\\_") in after or said in after, said


def test_without_a_policy_the_page_says_what_exit_code_0_means() -> None:
    assert "exit code 0 means only that the check ran" in to_markdown(page.build(record(figure(0.4, 0.5, 0.6))))


def test_the_page_loads_nothing() -> None:
    html = to_html(page.build(record(figure(0.4, 0.5, 0.6))))
    assert "<title>Release check of model.npz" in html
    assert "http://" not in html
    assert "https://" not in html


def test_each_option_that_was_given_is_no_longer_listed_as_not_tested() -> None:
    made = record(figure(0.4, 0.5, 0.6))
    options = ("--secrets", "--reference")
    for given, missing in (({"secrets": "pkg:secrets"}, "--reference"), ({"reference": "other.npz"}, "--secrets")):
        listed = page.not_tested(made.model_copy(update={"plan": made.plan.model_copy(update=given)}))
        assert [name for name in options if any(f"{name} was not given" in line for line in listed)] == [missing]
