"""Tables for approvers: the state and reason of every limit, and requirements in their order."""

from fedsim.judgement.limits import Case, Figure, judge
from fedsim.judgement.policy import Policy
from fedsim.record import Interval
from fedsim.report.sections.approval import Requirement, cut, limits_table, requirements_table


def test_each_limit_has_its_state_and_the_reason_is_cut_after_a_word() -> None:
    rates = [Interval(value=value, low=value, high=value, n=100) for value in (0.5, 0.1)]
    case = Case(members=[Figure("lira", rates[0])], accuracy_loss=Figure("accuracy", rates[1]))
    judged = judge(Policy(max_membership_tpr=0.2, max_accuracy_loss=0.2), case)
    rows = [[cell.text for cell in row.cells] for row in limits_table(judged).rows]
    states = {row[0]: row[2] for row in rows}
    assert states == {"max_membership_tpr": "broken", "max_accuracy_loss": "kept"}
    whole = {row[0]: row[3] for row in rows}["max_membership_tpr"]
    assert whole == "max_membership_tpr = 0.2, but lira finds 50 % of the members at 1 % false positives."
    short = {row.cells[0].text: row.cells[3].text for row in limits_table(judged, 30).rows}
    assert short == {"max_membership_tpr": "max_membership_tpr = 0.2, but ...", "max_accuracy_loss": ""}
    assert [cell.level for row in limits_table(judged).rows for cell in row.cells if cell.level] == list(
        states.values()
    )


def test_a_text_of_the_longest_length_is_whole() -> None:
    assert cut("three short words", 17) == "three short words"
    assert cut("three short words", 16) == "three short ..."
    assert cut("three short words", None) == "three short words"


def test_requirements_keep_their_order_and_columns() -> None:
    first, second = Requirement("a", "asks", "has"), Requirement("b", "asks too", "nothing")
    table = requirements_table([first, second])
    assert [tuple(cell.text for cell in row.cells) for row in table.rows] == [first, second]
    assert [heading.is_number for heading in table.headings] == [False] * 3
