"""Scores of sentences in the report, in `scores.csv` and in exports, of runs that never happened."""

import csv
from pathlib import Path

from fedsim.experiment.sweep import results
from fedsim.experiment.sweep.export import write_csv
from fedsim.metrics.statistics import summarise
from fedsim.metrics.success import Rule
from fedsim.record import ItemScore, RoundRecord, RunRecord, VictimRecord
from fedsim.record.store import RunFolder
from fedsim.report import writing
from fedsim.report.sweep import build
from fedsim.report.sweep.gathered import gather
from fedsim.report.sweep.points import gains, points
from fedsim.report.sweep.tables import attack_table, rows, settings_table

from . import records, sweeps
from .records import arm, attack, run

SCORING = {"metric": "identified", "threshold": 0.5, "resamples": 200}  # sentences have a metric of their own


def sentence(index: int, exact: bool, secret: str | None = None, read: bool = False) -> ItemScore:
    values = {"exact": float(exact), "token_accuracy": float(exact), "rouge_1": 0.25, "rouge_2": 0.125, "rouge_l": 0.75}
    if secret is not None:
        values["secret_read"] = float(read)
    guess = "call 555-1" if exact else ""
    return ItemScore(index=index, values=values, text="call 555-1", guess=guess, secret=secret)


def written(folder: Path) -> RunRecord:
    """Four updates of two sentences, of which three hold a secret and two of these were read; and one failure."""
    secrets = [("1", True), ("2", True), ("3", False), (None, False)]
    victims = [
        VictimRecord(round=1, client=c, scores=(sentence(0, c % 2 == 0, *own), sentence(1, True)))
        for c, own in enumerate(secrets)
    ]
    victims.append(VictimRecord(round=1, client=4, failure="diverged"))
    made = attack("reader", victims)
    record = run([arm("plain", [made])], plan=records.scenario(scoring=SCORING))
    folder.mkdir()
    RunFolder(folder).write_record(record)
    return record


def test_rouge_and_secrets_stand_in_the_report_with_their_intervals(tmp_path: Path) -> None:
    record = written(tmp_path / "run")
    summary = summarise(record.arms[0].attacks[0].victims, Rule.of("identified", 0.5), seed=0)
    secrets = summary.metrics["text.secrets"]
    assert secrets is not None
    assert secrets.low is not None
    assert secrets.high is not None
    assert (round(3 * secrets.value), secrets.n) == (2, 3)
    page = writing.build(tmp_path / "run").read_text()
    assert f"{100 * secrets.low:.0f} to {100 * secrets.high:.0f}" in page
    for heading, value in (
        ("mean ROUGE-1", "0.25"),
        ("mean ROUGE-2", "0.12"),
        ("mean ROUGE-L", "0.75"),
        ("secrets read", "67%"),
    ):
        assert f">{heading}</th>" in page
        assert value in page


def test_every_sentence_is_a_row_with_its_scores_and_whether_its_secret_was_read(tmp_path: Path) -> None:
    written(tmp_path / "run")
    writing.build(tmp_path / "run")
    expected = ["True", "", "True", "", "False", "", "", "", ""]
    for path in (tmp_path / "run" / "scores.csv", write_csv(tmp_path / "run")):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["secret_read"] for row in rows] == expected
        assert [row["rouge_1"] for row in rows] == ["0.25"] * 8 + [""]
        assert [row["rouge_2"] for row in rows] == ["0.125"] * 8 + [""]
        assert [row["token_accuracy"] for row in rows] == ["1.0", "1.0", "0.0", "1.0"] * 2 + [""]
        assert {row.get("ssim", "") for row in rows} == {""}  # an export has no empty columns
        assert rows[-1]["failure"] == "diverged"
    exact = [row["exact"] for row in results.load(tmp_path / "run")]
    assert exact == [True, True, False, True, True, True, False, True, None]


def swept(folder: Path, measure: str, values: dict[str, float]) -> Path:
    """Write a sweep of two seeds: without defense all sentences are exact, with noise none."""
    runs = []
    for defense, value in values.items():
        for seed in (1, 2):
            victims = [VictimRecord(round=1, client=c, scores=(sentence(0, defense == "none"),)) for c in range(4)]
            rounds = (
                RoundRecord(
                    round=1, cohort=(0,), participants=(0,), training_loss=1.0, test_metrics={"test_accuracy": 0.99}
                ),
                RoundRecord(round=2, cohort=(0,), participants=(0,), training_loss=1.0, test_metrics={measure: value}),
            )
            own = sweeps.run(records, defense, seed, victims)
            arms = (own.arms[0].model_copy(update={"rounds": rounds}),)
            own = own.model_copy(update={"arms": arms, "plan": {**own.plan, "scoring": SCORING}})
            own = own.with_declarations(SCORING["metric"])
            runs.append((defense, seed, own))
    return sweeps.save(folder, records, runs, scoring=SCORING)


def test_a_sweep_on_text_counts_exact_sentences_and_names_what_it_measured(tmp_path: Path) -> None:
    for measure, name, told in (
        ("test_spearman", "Spearman correlation", " of Spearman correlation"),
        ("test_span_f1", "span F1", "points of span F1"),
        ("test_accuracy", "accuracy", "points of accuracy"),
    ):
        folder = swept(tmp_path / measure, measure, {"none": 0.75, "gradient-noise 1.0": 0.5})
        sweep = gather(folder)
        undefended, noisy = found = points(sweep)
        assert (undefended.setting.measure, noisy.setting.recovered_noun) == (name, "sentences exact")
        assert undefended.strongest is not None
        assert noisy.strongest is not None
        assert (undefended.strongest.rate.value, noisy.strongest.rate.value) == (1.0, 0.0)
        assert noisy.utility is not None
        assert noisy.loss is not None
        assert (noisy.utility.value, noisy.loss.value) == (0.5, 0.25)
        assert settings_table(sweep, found).headings[1].text.startswith(name)
        assert [row[2] for row in rows(sweep, found)] == [name, name]
        assert [row.cells[2].text for row in attack_table(sweep, found).rows] == ["100%", "0%"]
        page = writing.build(folder / "runs" / ("0" * 16)).read_text()
        assert f"test {name}" in page
        page = build(folder).read_text()
        assert told in page
        assert "of the sentences exact to ig" in page
        assert "images recovered" not in page
        last = results.load(folder)[-1]
        assert last[measure] == 0.5
        assert sum(last[key] is not None for key in ("test_accuracy", "test_span_f1", "test_spearman")) == 1


def test_a_correlation_is_no_loss_of_accuracy(tmp_path: Path) -> None:
    first = gather(swept(tmp_path / "a", "test_spearman", {"none": 0.75})).settings[0]
    second = gather(swept(tmp_path / "b", "test_accuracy", {"none": 0.5})).settings[0]
    assert gains(first, second) == []
    assert gains(first, first) == [0.0, 0.0]
