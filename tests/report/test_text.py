"""Scores of sentences in the report, in `scores.csv` and in exports, of runs that never happened."""

import csv
from pathlib import Path

from fedsim import report
from fedsim.metrics.statistics import summarise
from fedsim.record import RunRecord, SentenceScore, VictimRecord
from fedsim.store import RunFolder
from fedsim.sweep import results
from fedsim.sweep.export import write_csv

from .records import arm, attack, run


def sentence(index: int, exact: bool, secret: str | None = None, read: bool = False) -> SentenceScore:
    return SentenceScore(
        index=index,
        text="call 555-1",
        guess="call 555-1" if exact else "",
        token_accuracy=float(exact),
        rouge_1=0.25,
        rouge_2=0.125,
        rouge_l=0.75,
        exact=exact,
        secret=secret,
        secret_read=read,
    )


def written(folder: Path) -> RunRecord:
    """Four updates of two sentences, of which three hold a secret and two of these were read; and one failure."""
    secrets = [("1", True), ("2", True), ("3", False), (None, False)]
    victims = [
        VictimRecord(round=1, client=c, sentences=(sentence(0, c % 2 == 0, *own), sentence(1, True)))
        for c, own in enumerate(secrets)
    ]
    victims.append(VictimRecord(round=1, client=4, failure="diverged"))
    made = attack("reader", victims)
    made = made.model_copy(update={"summary": summarise(victims, "ssim", 0.5, seed=0)})
    record = run([arm("plain", [made])])
    folder.mkdir()
    RunFolder(folder).write_record(record)
    return record


def test_rouge_and_secrets_stand_in_the_report_with_their_intervals(tmp_path: Path) -> None:
    record = written(tmp_path / "run")
    summary = record.arms[0].attacks[0].summary
    assert summary is not None
    assert summary.text is not None
    secrets = summary.text.secrets
    assert secrets is not None
    assert secrets.low is not None
    assert secrets.high is not None
    assert (round(3 * secrets.value), secrets.n) == (2, 3)
    page = report.build(tmp_path / "run").read_text()
    assert f"{100 * secrets.low:.0f} to {100 * secrets.high:.0f}" in page
    for heading, value in (("ROUGE-1", "0.25"), ("ROUGE-2", "0.12"), ("ROUGE-L", "0.75"), ("secrets read", "67%")):
        assert f">{heading}</th>" in page
        assert value in page


def test_every_sentence_is_a_row_with_its_scores_and_whether_its_secret_was_read(tmp_path: Path) -> None:
    written(tmp_path / "run")
    report.build(tmp_path / "run")
    expected = ["True", "", "True", "", "False", "", "", "", ""]
    for path in (tmp_path / "run" / "scores.csv", write_csv(tmp_path / "run")):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["secret_read"] for row in rows] == expected
        assert [row["rouge_1"] for row in rows] == ["0.25"] * 8 + [""]
        assert [row["rouge_2"] for row in rows] == ["0.125"] * 8 + [""]
        assert [row["token_accuracy"] for row in rows] == ["1.0", "1.0", "0.0", "1.0"] * 2 + [""]
        assert {row["ssim"] for row in rows} == {""}
        assert rows[-1]["failure"] == "diverged"
    exact = [row["exact"] for row in results.load(tmp_path / "run")]
    assert exact == [True, True, False, True, True, True, False, True, None]
