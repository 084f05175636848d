"""What tables of an audit say, cell by cell."""

from fedsim.audit import planted, table_cells
from fedsim.audit.groups import compare
from fedsim.core.time_budget import OUT_OF_TIME
from fedsim.metrics.groups import GroupRisk
from fedsim.record import Interval, VictimRecord
from tests.audit.findings import attacked, exposure, of_victims


def test_an_interval_without_bounds_is_its_value() -> None:
    assert table_cells.interval(Interval(value=0.256, low=0.2, high=0.3, n=9), 100, 1) == "25.6 (20.0 to 30.0)"
    assert table_cells.interval(Interval(value=0.256, low=None, high=None, n=1), 1, 2) == "0.26"


WORDS = {"values": {"every_word": 1.0}}


def test_the_winner_is_the_attack_that_auto_chose_most_often() -> None:
    def victims(*notes: str) -> tuple[VictimRecord, ...]:
        scores = attacked(0).victims[0].scores
        return tuple(VictimRecord(round=1, client=0, notes=(note,), scores=scores) for note in notes)

    own = victims("won: dia, 2 starts", "won: ig", "won: dia")
    assert table_cells.winner(of_victims(own)) == "dia"
    words = own[0].model_copy(update=WORDS)
    assert table_cells.winner(of_victims([*own, words])) == "word-readout: every word, not their order"
    assert table_cells.winner(of_victims([*own, words, *attacked(1).victims])) == "dia"
    (nobody,) = victims("tried all")
    assert table_cells.winner(of_victims([nobody])) == "none"
    late = nobody.model_copy(update={"stopped": OUT_OF_TIME})
    assert table_cells.winner(of_victims([late])) == "an unfinished search"


def test_the_figure_beside_the_share_is_one_of_which_there_is_more_to_say_than_a_share() -> None:
    own, column = attacked(3), table_cells.headline()
    assert column.metric.spread
    assert column.metric.shown
    assert table_cells.figure_of(own, column) == "30.0 (30.0 to 30.0) dB"
    blind = attacked(0, scores=())
    assert table_cells.figure_of(blind, column) == ""
    assert table_cells.format_recovered(blind) == "not scored"


def test_a_sentence_names_the_remembered_secrets() -> None:
    assert planted.sentence_of(exposure()) == (
        "The trained model remembers secrets that were planted 16 times. Secrets planted once are not "
        "distinguished from unplanted secrets."
    )


def test_what_was_measured_of_a_group_has_its_p_where_there_is_one() -> None:
    value = Interval(value=0.5, low=0.2, high=0.8, n=9)
    risks = {"sex f": GroupRisk(value, p=0.03), "sex m": GroupRisk(value, p=None)}
    first, second = map(table_cells.group_cells, compare("sex", "rows recovered", "success", risks))
    assert first == ("rows recovered", "sex f", "9", "0.50 (0.20 to 0.80)", "0.03")
    assert second[-1] == ""
