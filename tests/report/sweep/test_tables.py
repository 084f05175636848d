"""Tables of a sweep: numbers for machines and words for people, of the same points."""

import pytest

from fedsim.report.sweep import tables
from fedsim.report.sweep.gathered import gather
from fedsim.report.sweep.points import points
from tests.report.sweep.estimating import estimated

POLICY = {"max_recovered": 0.2}
NAMES = ["none", "gradient-noise 0.01", "gradient-noise 1.0", "gradient-noise 0.1"]


@pytest.fixture(scope="module")
def three(tmp_path_factory, records, sweeps):
    runs = sweeps.typical(records)
    for seed in (1, 2, 3):  # less accurate than the control by far, and no safer
        one = sweeps.run(records, "gradient-noise 0.1", seed, records.recovered(8), accuracy=0.3 + 0.01 * seed)
        runs.append(("gradient-noise 0.1", seed, one))
    folder = sweeps.save(tmp_path_factory.mktemp("s") / "s", records, runs, policy=POLICY)
    sweep = gather(folder)
    return sweep, points(sweep)


def test_every_row_has_a_value_for_every_column_and_every_line_a_cell_for_every_heading(three):
    sweep, found = three
    names = tables.columns(sweep)
    rows = [dict(zip(names, row, strict=True)) for row in tables.rows(sweep, found)]
    assert [row["setting"] for row in rows] == NAMES
    assert [row["success"] for row in rows] == [1.0, 1.0, 0.0, 1.0]
    assert [row["seeds"] for row in rows] == [3] * 4
    assert [row["epsilon"] for row in rows] == [None] * 4
    table = tables.settings_table(sweep, found)
    for row in table.rows:
        assert len(row.cells) == len(table.headings)
        assert all(cell.sort_by for cell in row.cells)


def test_the_extremes_are_those_of_the_strongest_attack(three):
    sweep, found = three
    row = dict(zip(tables.columns(sweep), tables.rows(sweep, found)[0], strict=True))
    psnr = [30.0 + client for client in range(8)] * 3
    assert row["psnr_max"] == max(psnr)
    assert 36.0 < row["psnr_p95"] <= max(psnr)


def test_marks_say_what_keeps_the_policy_what_is_the_control_and_what_another_setting_beats(three):
    sweep, found = three
    rows = tables.settings_table(sweep, found).rows
    marks = {row.cells[0].text: row.cells[0].tags for row in rows}
    assert [row.level for row in rows] == ["", "", "", "muted"]
    assert marks["none"] == ("breaks the policy", "control")
    assert marks["gradient-noise 0.01"] == ("breaks the policy",)
    assert marks["gradient-noise 0.1"] == ("breaks the policy", "dominated")
    assert marks["gradient-noise 1.0"] == ("within the policy",)


def test_shares_above_thresholds_fall_with_the_threshold(three):
    sweep, found = three
    metric = next(own for own in tables.counted_metrics(sweep) if own.name == "psnr")
    psnr = next(own for own in tables.thresholds(sweep, found) if own.title.endswith(metric.title))
    assert len(psnr.headings) == 1 + len(metric.steps)
    for row in psnr.rows:
        values = [int(cell.text.rstrip("%")) for cell in row.cells[1:]]
        assert values == sorted(values, reverse=True)
    assert {row.cells[0].text: row.cells[1].text for row in psnr.rows}["none"] == "100%"


def test_attacks_are_listed_with_their_reason_and_controls_are_marked(tmp_path, records, sweeps):
    informed = records.attack("wiig", records.recovered(2), knows=("labels", "masks"))
    lost = records.attack("analytic", [records.failed(0, "needs a bias")])
    runs = [sweeps.one(records, "none", 1, records.recovered(2), attacks=[informed, lost])]
    sweep, found = estimated(sweeps.save(tmp_path, records, runs))
    listed = {row.cells[1].text: row.cells for row in tables.attack_table(sweep, found).rows}
    assert {name: cells[1].tags for name, cells in listed.items()} == {"ig": (), "wiig": ("control",), "analytic": ()}
    assert listed["analytic"][2].text == "failed"
    assert listed["analytic"][4].text == "needs a bias"
    assert listed["ig"][2].text == "100%"


def test_a_guarantee_stands_with_its_epsilon_and_says_where_it_trusts_the_server(tmp_path, records, sweeps):
    runs = []
    for scale, held in (("1.0", True), ("2.0", False)):
        stated = (records.guarantee(epsilon=2.0, holds_against_server=held),)
        name = f"gradient-noise {scale}"
        runs.append(sweeps.one(records, name, 1, records.missed(2), guarantees=stated))
    sweep, found = estimated(sweeps.save(tmp_path, records, runs))
    table = tables.settings_table(sweep, found)
    place = [heading.text for heading in table.headings].index("epsilon")
    cells = [row.cells[place] for row in table.rows]
    assert [cell.text for cell in cells] == ["2", "2"]
    assert [cell.interval for cell in cells] == ["delta 1e-05", "server trusted"]
    assert [cell.sort_by for cell in cells] == ["2.0", "2.0"]
