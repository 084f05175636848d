"""Records of schema 1 that a version before this one wrote are read as those of the present schema."""

import json
import shutil
from pathlib import Path

import pytest

from fedsim import report
from fedsim.core.errors import FedsimError
from fedsim.core.json_schema import SCHEMA_VERSION
from fedsim.experiment.sweep import heads
from fedsim.experiment.sweep.results import load
from fedsim.metrics.statistics import summarise
from fedsim.record import RunRecord, conversion
from fedsim.record.store import RECORD, RunFolder, read_record
from fedsim.report.verdict import Judge

STORED = Path(__file__).parent / "schema_1"
NAMES = ("images", "composites", "text", "tags")


def folder_of(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(STORED / f"{name}.json", folder / RECORD)
    return folder


def stored(name: str) -> dict:
    return json.loads((STORED / f"{name}.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_a_record_of_schema_1_is_read_reported_and_written_in_the_present_one(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path, name)
    assert heads.is_finished(folder / RECORD)
    record = read_record(folder)
    assert record.schema_version == SCHEMA_VERSION
    assert {*record.figures} <= record.declared.keys()
    report.build(folder)
    assert len(load(folder)) == sum(max(1, v.examples) for attack in record.arms[0].attacks for v in attack.victims)
    RunFolder(folder).write_record(record)
    assert read_record(folder) == record


def test_images_keep_their_scores_and_one_without_a_guess_is_missing(tmp_path: Path) -> None:
    (before,), (after,) = (
        stored("images")["arms"][0]["attacks"],
        read_record(folder_of(tmp_path, "images")).arms[0].attacks,
    )
    for old, new in zip(before["victims"], after.victims, strict=True):
        for item, own in zip(old["scores"], new.scores, strict=True):
            assert own.values == {name: item[name] for name in ("mse", "mse_normalised", "psnr", "ssim")}
            assert (own.label, own.guessed_label) == (item["label"], item.get("guessed_label"))
    assert [[item.is_missing for item in victim.scores] for victim in after.victims] == [[False], [True]]
    assert after.summary is not None
    summary = {name: value for name, value in before["summary"].items() if value is not None}
    assert after.summary.success.model_dump() == summary.pop("success")
    assert {name: own.model_dump() for name, own in after.summary.metrics.items()} == summary


def test_scores_against_composites_are_metrics_like_others(tmp_path: Path) -> None:
    (before,), (after,) = (
        stored("composites")["arms"][0]["attacks"],
        read_record(folder_of(tmp_path, "composites")).arms[0].attacks,
    )
    place, item = next((n, own) for n, own in enumerate(before["victims"][0]["scores"]) if "minor_found" in own)
    for name in ("psnr_trained", "psnr_seen", "seen", "minor_share", "minor_found", "share_error"):
        assert after.victims[0].scores[place].values[name] == item[name]
    assert after.summary is not None
    trained = before["summary"]["composites"]["psnr_trained"]
    assert after.summary.metrics["composites.psnr_trained"].model_dump() == trained


def test_sentences_are_items_with_text_and_their_summary_can_be_made_again(tmp_path: Path) -> None:
    record = read_record(folder_of(tmp_path, "text"))
    (attack,) = record.arms[0].attacks
    (before,) = stored("text")["arms"][0]["attacks"]
    for old, new in zip(before["victims"], attack.victims, strict=True):
        for sentence, own in zip(old["sentences"], new.scores, strict=True):
            assert (own.text, own.guess, own.secret) == (sentence["text"], sentence["guess"], sentence["secret"])
            assert own.values["exact"] == sentence["exact"]
            read = sentence["secret_read"] if sentence["secret"] else None
            assert own.values.get("secret_read") == read
    judge = Judge.of(record)
    again = summarise(attack.victims, judge.success, judge.seed)
    assert attack.summary is not None
    assert again.metrics.keys() == attack.summary.metrics.keys()


def test_what_was_tested_of_a_round_is_in_order_the_most_telling_first(tmp_path: Path) -> None:
    rounds = read_record(folder_of(tmp_path, "tags")).arms[0].rounds
    assert [list(own.tested.items()) for own in rounds] == [
        [("test_span_f1", 0.25), ("test_accuracy", 0.5), ("test_loss", 1.25)],
        [("test_spearman", 0.5)],
    ]


def test_a_record_of_a_later_fedsim_says_so(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "tags")
    text = (folder / RECORD).read_text().replace('"schema_version": 1', '"schema_version": 3', 1)
    (folder / RECORD).write_text(text)
    with pytest.raises(FedsimError, match="schema version 3, and this fedsim reads up to 2: a later one made it"):
        read_record(folder)


def test_a_record_needs_no_package_that_a_metric_came_from(tmp_path: Path) -> None:
    """Its declaration stands in the record, as here of a metric that nobody has installed."""
    raw = conversion.from_first(stored("images"))
    declared = {"name": "gone", "title": "Gone", "meaning": "of a package that is not here", "over": "item"}
    raw["metrics"].append({**declared, "statistics": {"gone_mean": "mean"}})
    attack = raw["arms"][0]["attacks"][0]
    for victim in attack["victims"]:
        for item in victim["scores"]:
            item["values"]["gone"] = 0.625
    attack["summary"]["metrics"]["gone_mean"] = {"value": 0.625, "low": None, "high": None, "n": 2}
    folder = tmp_path / "run"
    folder.mkdir()
    RunFolder(folder).write_record(RunRecord.model_validate(raw))
    page = report.build(folder).read_text()
    assert "mean Gone" in page
    assert "of a package that is not here" in page
    assert [row["gone"] for row in load(folder)] == [0.625, 0.625]
    assert "gone" in (folder / "scores.csv").read_text().splitlines()[0].split(",")
