"""An audit as tables: a row an image, a row a defense."""

import csv
from pathlib import Path

from fedsim.audit import tables
from fedsim.judgement.policy import Policy
from fedsim.record import ItemScore
from fedsim.record.store import RunFolder
from tests.audit.findings import HOSTILE, attacked, defended, guarantee, record


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_attacked_image_is_a_row_with_its_scores_and_what_it_was_defended_by(tmp_path: Path) -> None:
    found = record(Policy(), client=(attacked(3), attacked(0, of=2, batch=4)), tried=(defended("noise", 1, 0.0, of=2),))
    tables.write(found, RunFolder(tmp_path))
    rows = read(tmp_path / tables.IMAGES)
    assert [row["defense"] for row in rows] == [""] * 6 + ["control"] * 4 + ["noise"] * 2
    assert [row["recovered"] for row in rows[:6]] == ["True"] * 3 + ["False"] * 3
    assert [(row["batch"], row["update"]) for row in rows[4:6]] == [("4", "1"), ("4", "2")]
    assert {row["psnr_db"] if "psnr_db" in row else row["psnr"] for row in rows} == {"30.0"}
    is_shown = [metric.shown for metric in tables._metrics(found)]
    assert is_shown == sorted(is_shown, reverse=True)
    assert {*is_shown} == {True, False}


def test_an_update_without_a_guess_is_a_row_that_failed(tmp_path: Path) -> None:
    lost = attacked(0, of=2, scores=(), failure="no guess")
    tables.write(record(Policy(), client=(lost,), control=None), RunFolder(tmp_path))
    rows = read(tmp_path / tables.IMAGES)
    assert [(row["update"], row["recovered"], row["image"]) for row in rows] == [
        ("1", "failed", ""), ("2", "failed", "")
    ]  # fmt: skip


def test_a_defense_has_what_it_stopped_what_it_cost_and_whether_it_keeps_the_policy(tmp_path: Path) -> None:
    weak = defended("weak", 30, 0.02).model_copy(
        update={"guarantees": (guarantee(1.0), guarantee(9.0), guarantee(3.0))}
    )
    lost = defended(HOSTILE, 0, 0.0).model_copy(update={"failure": "broke"})
    tables.write(record(Policy(max_recovered=0.1), tried=(weak, lost)), RunFolder(tmp_path))
    control, first, second = read(tmp_path / tables.DEFENSES)
    assert [*control] == [*tables.DEFENSE_COLUMNS]
    assert (control["defense"], control["recovered_share"], control["accuracy_loss"]) == ("control", "1.0", "")
    assert (first["updates"], first["recovered_share"], first["accuracy_loss"]) == ("40", "0.75", "0.02")
    assert (first["keeps_policy"], first["test_examples"]) == ("no", "100")
    assert (first["loss_change"], first["slowdown"]) == ("0.1", "1.5")
    assert "max_recovered" in first["breaks"]
    assert (control["epsilon"], first["epsilon"]) == ("", "9.0")
    assert (second["defense"], second["keeps_policy"], second["failure"]) == (HOSTILE, "undecided", "broke")


def test_a_defense_that_was_not_attacked_leaves_its_cells_empty() -> None:
    bare = defended("late", 0, 0.0).model_copy(update={"findings": (), "cost": None})
    row = dict(zip(tables.DEFENSE_COLUMNS, tables.defenses(record(Policy(), tried=(bare,)))[1], strict=True))
    assert [row[name] for name in ("batch", "updates", "recovered_share", "accuracy_loss", "slowdown")] == [""] * 5


def test_targets_have_columns_where_they_were_scored(tmp_path: Path) -> None:
    values = {"psnr": 30.0, "ssim": 0.9, "target_error": 0.25, "target_error_guessed": 1.5, "target_read": 0.0}
    tables.write(
        record(Policy(), client=(attacked(1, of=1, scores=(ItemScore(index=0, values=values),)),)), RunFolder(tmp_path)
    )
    (row, *_) = read(tmp_path / tables.IMAGES)
    assert (row["target_error"], row["target_error_guessed"], row["target_read"]) == ("0.25", "1.5", "0.0")
    tables.write(record(Policy(), client=(attacked(1),)), RunFolder(tmp_path))
    assert "target_error" not in read(tmp_path / tables.IMAGES)[0]
