"""A row of scores.csv is an attacked example of the record."""

from tests.report.reading import read_csv


def test_scores_match_the_record(typical):
    record, folder, _ = typical
    rows = read_csv(folder / "scores.csv")
    expected = [
        (arm.name, attack.label, str(victim.client), str(item.values["psnr"]))
        for arm in record.arms
        for attack in arm.attacks
        for victim in attack.victims
        for item in victim.scores
    ]
    scored = [row for row in rows if not row["failure"]]
    assert [(row["arm"], row["attack"], row["client"], row["psnr_db"]) for row in scored] == expected
    (failure,) = [row for row in rows if row["failure"]]
    assert (failure["attack"], failure["client"], failure["failure"], failure["success"]) == (
        "dia", "3", "diverged", "failed",
    )  # fmt: skip
