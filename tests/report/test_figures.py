"""Pictures of a report, each beside its data."""

import pytest

from fedsim.report import figures
from tests.report.reading import read_csv

pytestmark = pytest.mark.draws


def test_each_picture_stands_beside_its_data(typical):
    record, folder, _ = typical
    pictures = sorted(path.stem for path in (folder / "figures").glob("*.png"))
    assert pictures == sorted(path.stem for path in (folder / "figures").glob("*.csv"))
    assert {name.split("-")[0] for name in pictures} == {"accuracy", "curves", "exceedance", "participation", "wall"}
    curve = read_csv(folder / "figures" / "curves-1-model-dropout-0.csv")
    assert len(curve) == sum(len(victim.history) for victim in record.arms[0].attacks[0].victims)
    shares = read_csv(folder / "figures" / "exceedance-2-model-dropout-0-5.csv")
    assert max(float(row["share_above"]) for row in shares if row["attack"] == "dia") == 1.0
    assert float(read_csv(folder / "figures" / "accuracy.csv")[0]["test_accuracy"]) == 0.5


def test_no_round_was_evaluated(report, records, tmp_path):
    page = report(records.run([records.arm("a", [records.attack("ig", records.recovered())], rounds=())]))
    assert "No round was evaluated" in page.text
    assert not (tmp_path / "figures" / "accuracy.png").exists()


def test_the_rarest_of_many_classes_are_added_up(records):
    counts = [[client + 100 * (label % 50 == 7) for label in range(100)] for client in range(1, 4)]
    segments = dict(figures._segments(records.partition(counts)))
    assert len(segments) == 21
    assert segments["class 7"] == [101, 102, 103]
    assert segments["class 57"] == [101, 102, 103]
    assert segments["other classes"] == [80, 160, 240]


def test_a_search_without_a_history_or_with_one_a_logarithm_cannot_show(report, records):
    silent = records.victim(0, [records.item(psnr=20, ssim=0.6)], history=()).model_copy(
        update={"objective": None, "objective_at_truth": None}
    )
    broken = records.victim(1, [records.item(psnr=20, ssim=0.2)], history=((1, 0.0), (2, -1.0)))
    page = report(records.run([records.arm("a", [records.attack("ig", [silent, broken])])]))
    assert "No search left a history" in page.text


@pytest.mark.slow
def test_more_arms_and_attacks_than_colours(report, records):
    arms = [
        records.arm(f"arm {a}", [records.attack(f"attack {i}", records.recovered(1)) for i in range(9)])
        for a in range(2)
    ]
    assert "attack 8" in report(records.run(arms)).text


def test_false_alarms_and_hits_are_a_curve_an_attack_beside_their_points(records, sweeps, report, tmp_path):
    parts = sweeps.membership("lira", 100)
    (found,) = parts["findings"]
    failed = found.model_copy(update={"label": "lost", "value": None, "failure": "no shadows", "items": ""})
    arms = [records.arm("quiet", []), records.arm("told", [], findings=(found, failed), items=parts["items"])]
    page = report(records.run(arms))
    rows = read_csv(tmp_path / "figures" / "roc-2-told.csv")
    assert [tuple(row.values()) for row in rows] == [
        ("told", "lira", "0.0", "0.0"), ("told", "lira", "0.01", "0.1"), ("told", "lira", "1.0", "1.0")
    ]  # fmt: skip
    assert not list((tmp_path / "figures").glob("roc-1-*"))
    assert any("lira at FPR 1.0%: 10.0%." in image["alt"] for image in page.images)
