"""The page of a run as a whole: its parts, its safety, and how it is written."""

import json
import os
import re

import pytest

from fedsim.core.errors import FedsimError
from fedsim.experiment.sweep.results import load
from fedsim.record import ClientCost, RunRecord
from fedsim.report.writing import build

pytestmark = pytest.mark.draws


def test_sections_come_in_the_readers_order(typical):
    _, _, page = typical
    ids = [attributes["id"] for tag, attributes in page.tags if tag == "h2"]
    expected = "verdict wall arms results threat exceedance curves participation accuracy failures diagnosis reproduce"
    assert ids == [*expected.split(), "words"]
    assert page.headings[0] == "h1"
    assert page.headings.count("h1") == 1
    assert page.open == []


def test_is_one_offline_file(typical):
    _, _, page = typical
    page.check_is_one_offline_file()
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", page.html)
    assert "@import" not in page.html
    assert "url(" not in page.html


def test_every_picture_has_words(typical):
    _, _, page = typical
    assert len(page.images) > 20
    assert all(image["alt"].strip() for image in page.images)


def test_is_written_for_phones_printers_and_screen_readers(typical):
    _, _, page = typical
    assert ("html", {"lang": "en"}) in page.tags
    assert any(attributes.get("name") == "viewport" for _, attributes in page.tags)
    assert "@media print" in page.html
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(a["aria-labelledby"] in ids for _, a in page.tags if "aria-labelledby" in a)


def test_tells_how_to_run_it_again(typical):
    record, _, page = typical
    environment = record.environment
    for fact in (environment.command, record.digest, environment.python, "numpy 2.1.0", environment.processor,
                 "2 cores, 1 torch thread", environment.git_commit, "with uncommitted changes", record.started,
                 record.ended, json.dumps(record.plan["scoring"], indent=2).split("\n")[1].strip()):  # fmt: skip
        assert fact in page.text


def test_what_a_clients_round_took_is_stated_where_it_was_recorded(tmp_path, records, page_of):
    cost = ClientCost(processor_seconds=0.25, peak_memory=400 * 2**20, n=4)
    arms = [records.arm(name, [records.attack("ig", records.recovered())]) for name in ("one", "two")]
    record = records.run([arms[0].model_copy(update={"client_cost": cost}), arms[1]])
    page = page_of(build(records.save(tmp_path, record)).read_text(encoding="utf-8"))
    assert page.text.count("a client's round took 0.25 s of processor time and at most 400 MiB of memory") == 1
    assert page.text.count("a client's round took") == 1


def test_the_same_record_gives_the_same_report(typical):
    _, folder, page = typical
    before = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    assert build(folder).read_text(encoding="utf-8") == page.html
    assert {path.name: path.read_bytes() for path in (folder / "figures").iterdir()} == before
    assert [path.name for path in folder.rglob(".*")] == [".fedsim-files"]


def test_markup_in_a_scenario_is_text(report, records):
    hostile = "<script>alert('x')</script> & <b>bold</b>"
    record = records.run(
        [records.arm(hostile, [records.attack(hostile, records.recovered(1))])],
        plan=records.scenario(title=hostile, description='"><img src=x>'),
        threat_model=(hostile,),
    )
    record, arrays = records.with_arrays(record)
    page = report(record, arrays)
    assert hostile in page.text
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "b" not in {tag for tag, _ in page.tags}
    assert all(image["src"].startswith("data:") for image in page.images)
    assert any(hostile in image["alt"] for image in page.images)


def test_missing_and_foreign_records_are_named(tmp_path):
    with pytest.raises(FedsimError, match=r"no record\.json"):
        build(tmp_path)
    (tmp_path / "record.json").write_text('{"schema_version": 7}', encoding="utf-8")
    with pytest.raises(FedsimError, match="schema"):
        build(tmp_path)


def test_a_record_needs_no_package_that_a_metric_came_from(tmp_path, records):
    """Its declaration stands in the record, as here of a metric that nobody has installed."""
    raw = records.run([records.arm("none", [records.attack("own", records.recovered(2))])]).model_dump(mode="json")
    declared = {"name": "gone", "title": "Gone", "meaning": "of a package that is not here", "over": "item"}
    raw["metrics"].append({**declared, "statistics": {"gone_mean": "mean"}})
    attack = raw["arms"][0]["findings"][0]
    for victim in attack["victims"]:
        for item in victim["scores"]:
            item["values"]["gone"] = 0.625
    interval = {"value": 0.625, "low": None, "high": None, "n": 2}
    attack["extra_metrics"] = {"gone_mean": interval}
    folder = records.save(tmp_path / "run", RunRecord.model_validate(raw))
    page = build(folder).read_text()
    assert "mean Gone" in page
    assert "of a package that is not here" in page
    assert [row["gone"] for row in load(folder)] == [0.625, 0.625]
    assert "gone" in (folder / "scores.csv").read_text().splitlines()[0].split(",")


def test_an_unwritable_page_leaves_the_old_one(tmp_path, records, monkeypatch):
    folder = records.save(tmp_path, records.run([]))
    page = build(folder).read_bytes()

    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(FedsimError, match="disk full"):
        build(folder)
    assert (folder / "report.html").read_bytes() == page
    assert [path.name for path in folder.rglob(".*")] == [".fedsim-files"]


def test_a_guarantee_stands_with_everything_that_it_needs_and_without_one_there_is_no_section(report, records):
    page = report(records.run([records.arm("noisy", [], guarantees=(records.guarantee(),))]))
    stated = (
        "noisy dp-sgd epsilon 1.84 at delta 1e-05 (RDP 2.1) one record of a client, one more or less "
        "Poisson sampling at rate 0.01 1000 steps of noise multiplier 1 in 10 rounds, those of the "
        "client that was sampled most often the server"
    )
    assert stated in page.text
    assert "What was guaranteed" not in report(records.run([records.arm("plain", [])])).text
