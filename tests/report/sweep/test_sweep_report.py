"""The page of a sweep: what it claims, and that nothing in it can hurt."""

import base64
import csv
import io
import re

import pytest

from fedsim.record import ClientCost
from fedsim.report.sweep import build
from tests.report.sweep.estimating import estimated


def test_the_setting_that_keeps_the_policy_is_named_with_its_cost_and_no_promise(typical):
    _, page = typical
    assert (
        "gradient-noise 1.0 keeps every threshold. It loses 2.0 +/- 0.0 points of accuracy (3 seeds) and leaves 0% of "
        "the images readable to ig (95% interval 0 to 14%, 24 updates)."
    ) in page.text
    assert "Not a guarantee: the attacks that were tried failed, another may succeed." in page.text


def test_sections_come_in_the_readers_order(typical):
    _, page = typical
    ids = [attributes["id"] for tag, attributes in page.tags if tag == "h2"]
    expected = "verdict threat pareto table exceedance wall health sensitivity cost failures reproduce"
    assert ids == expected.split()
    assert page.headings.count("h1") == 1
    assert page.open == []


def test_it_is_one_offline_file_whose_only_script_is_our_own(typical):
    _, page = typical
    page.check_is_one_offline_file()


def test_every_picture_has_words_and_its_data_beside_it(typical):
    folder, page = typical
    assert len(page.images) > 8
    assert all(image["alt"].strip() for image in page.images)
    names = {path.stem for path in (folder / "figures").glob("*.png")}
    assert {"pareto-strongest-attack", "pareto-median-attack", "exceedance-gradient-noise", "sensitivity"} <= names
    for name in names:
        assert (folder / "figures" / f"{name}.svg").exists()
        with (folder / "figures" / f"{name}.csv").open() as file:
            assert len(list(csv.DictReader(file))) > 0


def test_the_table_can_be_sorted_and_downloaded_and_agrees_with_the_csv(typical):
    folder, page = typical
    (link,) = [attributes for tag, attributes in page.tags if tag == "a" and "download" in attributes]
    text = base64.b64decode(link["href"].partition("base64,")[2]).decode()
    assert text == (folder / "figures" / "table.csv").read_text()
    rows = {row["setting"]: row for row in csv.DictReader(io.StringIO(text))}
    assert list(rows) == ["none", "gradient-noise 0.01", "gradient-noise 1.0"]
    assert float(rows["gradient-noise 1.0"]["utility_loss"]) == pytest.approx(0.02)
    assert float(rows["gradient-noise 1.0"]["difference"]) == -1.0
    assert float(rows["none"]["success"]) == 1.0
    keys = [attributes["data-sort"] for tag, attributes in page.tags if "data-sort" in attributes]
    assert len(keys) == 3 * 13
    assert "inf" not in keys


def test_it_is_written_for_phones_printers_and_screen_readers(typical):
    _, page = typical
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    assert "@media print" in page.html
    tables = page.html.count("<table")
    assert page.html.count('role="region" tabindex="0"') == tables + 2, "each table, the command and the scenario"


def test_the_summary_says_the_same_in_markdown(typical):
    folder, _ = typical
    text = (folder / "report.md").read_text()
    assert "**gradient-noise 1.0 keeps every threshold.**" in text
    assert "- images readable: 0.0% (0.0 to 13.8), allowed 20%: kept" in text
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == 2 + 3


@pytest.mark.slow
@pytest.mark.draws
def test_the_same_sweep_gives_the_same_report(typical):
    folder, page = typical
    assert build(folder).read_text(encoding="utf-8") == page.html


def test_the_cost_of_a_clients_round_is_shown_where_it_was_recorded(tmp_path, records, sweeps, page_of):
    taken = [ClientCost(processor_seconds=s, peak_memory=m * 2**20, n=8) for s, m in ((0.2, 300), (0.4, 500))]
    runs = [
        sweeps.one(records, "none", seed, records.recovered(2), client_cost=cost) for seed, cost in enumerate(taken)
    ]
    runs.append(sweeps.one(records, "gradient-noise 1.0", 0, records.missed(2)))
    _, found = estimated(sweeps.save(tmp_path, records, runs))
    assert (found[0].processor_seconds, found[0].peak_memory) == (pytest.approx(0.3), 500 * 2**20)
    assert (found[1].processor_seconds, found[1].peak_memory) == (None, None)
    page = page_of(build(tmp_path).read_text(encoding="utf-8"))
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page.html.partition('id="cost"')[2].partition("</table>")[0])
    assert (cells[2:4], cells[8:10]) == (["0.3", "500"], ["\N{EN DASH}"] * 2)


def test_markup_in_names_is_text(tmp_path, records, sweeps, page_of):
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    runs = [sweeps.one(records, "none", 1, records.recovered(4)), (hostile, 1, None)]
    runs.append((hostile, 2, sweeps.run(records, "gradient-noise 1.0", 2, records.missed(4))))
    folder = sweeps.save(
        tmp_path, records, runs, title=f"{hostile} | [x](javascript:alert(3))", description=f"why? {hostile}"
    )
    page = page_of(build(folder).read_text(encoding="utf-8"))
    assert page.text.count("<script>alert(1)</script>") >= 3
    assert f"why? {hostile}" in page.text
    assert page.html.count("<script>") == 1
    assert not any("onerror" in attributes for _, attributes in page.tags)
    text = (folder / "report.md").read_text()
    assert re.search(r"(?<!\\)[<>]", text) is None
    assert re.search(r"(?<!\\)\]\(", text) is None
    assert {line.count("|") - line.count(r"\|") for line in text.splitlines() if line.startswith("| ")} == {8}
