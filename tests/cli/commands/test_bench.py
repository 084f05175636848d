"""`fedsim bench`: tables of the exact model, JSON, and mistakes in a sentence."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedsim.bench import grids, pruning, training
from fedsim.bench.descent import TrainingStep
from fedsim.bench.training import Recipe
from fedsim.cli.commands import bench
from fedsim.cli.commands._console import app
from fedsim.core.errors import FedsimError
from fedsim.core.nets import checkpoints


def told(*arguments: str) -> str:
    found = CliRunner().invoke(app, ["bench", *arguments], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


def test_the_exact_table_and_the_strategies_are_printed() -> None:
    shown = told("parallel", "--operation", "replace-random", "--samples", "4", "--shortest", "3", "--longest", "4")
    exact = next(line.split() for line in shown.splitlines() if "replace-random" in line)
    assert exact == ["replace-random", "0.863", "1.0000", "0.6562", "0.4219"]  # 2/4 3/4 + (3/4)^2 1/2
    assert "threshold 0.9" in shown
    assert "Most tokens a pass at 80% or more" in shown


def test_an_unmasker_with_settings_is_measured_as_json() -> None:
    asked = ("--operation", "copy", "--samples", "3", "--decoder", "fixed", "--set", "steps=1", "--json")
    found = json.loads(told("parallel", *asked))
    (own,) = found["measured"]
    assert (own["operation"], own["strategy"], own["accuracy"], own["n"]) == ("copy", "fixed steps=1", 1.0, 3)
    assert own["tokens_a_pass"] == pytest.approx(4)  # lists of 3, 4 and 5 letters in a pass each
    assert len(found["exact"]) == 10


def test_puzzles_are_analysed_and_measured_and_lists_of_names_are_written() -> None:
    shown = told("parallel", "--operation", "sudoku", "--samples", "2", "--decoder", "threshold")
    loss, measured = [line.split() for line in shown.splitlines() if line.split()[:1] in (["sudoku"], ["threshold"])][
        ::2
    ]
    assert loss == ["sudoku", "0.000", "1"]
    assert measured[0] == "threshold"
    asked = ("--operation", "latin-square-3", "--samples", "1", "--decoder", "fixed", "--json")
    assert json.loads(told("parallel", *asked))["mean_loss"]["latin-square-3"]["correlation"] == pytest.approx(
        7.403, abs=5e-4
    )
    written = told("parallel", "--operation", "copy", "--samples", "1", "--decoder", "threshold", "--written", "strict")
    assert "1.000" in written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--operation", "shuffel"), "knows no 'shuffel'. Did you mean 'shuffle'"),
        (("--decoder", "greedy"), "there is no unmasker 'greedy'"),
        (("--set", "steps=1"), "name the unmasker with --decoder"),
        (("--model", "list"), "unknown model 'list' of lists. Did you mean 'lists'"),
        (("--model", "random-lists", "--operation", "copy"), "model 'random-lists' knows no 'copy'"),
        (("--shortest", "5", "--longest", "4"), "--shortest is 5 and --longest 4"),
        (("--places", "6"), "--places is for the exact model, expected more than the 6 letters of --longest"),
        (("--places", "8", "--model", "random-lists"), "--places is for the exact model"),
        (("--written", "loose"), "--written is 'loose', expected any of lenient, strict"),
        (("--written", "strict", "--operation", "sudoku"), "--written is for operations on lists: 'sudoku' is none"),
        (("--places", "8", "--operation", "latin-square-3"), "--places is for operations on lists"),
        (("--written", "strict", "--places", "8"), "leave out --places"),
        (("--written", "strict", "--model", "random-lists"), "--written is for the exact model"),
        (("--model", "random-lists", "--operation", "sudoku"), "model 'random-lists' knows no 'sudoku'"),
        (("--operation", "sudoko"), "Did you mean 'sudoku'"),
    ],
)
def test_mistakes_are_one_sentence(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(FedsimError, match=message):
        told("parallel", *arguments)


def test_a_small_model_is_trained_and_its_accuracy_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"width": 16, "blocks": 1}
    lists = Recipe("copies", "list-operations", {"operations": ("copy",), "train": 4, "test": 4}, 3, 8, model=sizes)
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path))
    monkeypatch.setattr(training, "RECIPES", {"tiny": lists})
    shown = told("model", "tiny", "--samples", "3")
    assert "tiny: copies" in shown
    row = next(line.split() for line in shown.splitlines() if line.strip().startswith("copy"))
    assert row[0:3] == ["copy", "0.0", "0.0-56.1"]  # Wilson's interval of none of three
    again = told("parallel", "--model", "tiny", "--samples", "2", "--decoder", "threshold")
    assert "copy" in again


def test_an_interrupted_training_says_what_continues_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_tell: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(grids, "load_trained_model", interrupted)
    ended = CliRunner().invoke(app, ["bench", "model", "digit-grids"])
    assert ended.exit_code == 130
    assert ended.stderr == "Interrupted. The same command goes on where it was.\n"


def test_the_model_of_grids_is_tested_on_every_kind_of_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "load_trained_model", lambda _tell: grids.fresh())
    shown = told("model", "digit-grids", "--samples", "4")
    rows = {line.split()[0]: line.split()[1:3] for line in shown.splitlines() if line.strip()}
    assert rows["position"] == rows["presence"] == rows["counting"] == ["0.0", "0.0-49.0"]  # Wilson's, none of four


@pytest.mark.slow
def test_parts_of_rcp_are_trained_once_and_tested_on_every_kind_of_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path))
    monkeypatch.setattr(grids, "load_trained_model", lambda _tell: grids.fresh())
    monkeypatch.setattr(pruning, "RECIPES", {"rcp-37": pruning.PruningRecipe(0.5, steps=1)})
    monkeypatch.setattr(pruning, "BATCH", 2)
    monkeypatch.setattr(pruning, "_IMAGES", 4)
    arguments = ("bench", "model", "rcp-37", "--samples", "2")
    first, again = (CliRunner().invoke(app, arguments, catch_exceptions=False) for _ in range(2))
    assert "step 1 of 1: loss" in first.stderr
    assert "of the visual tokens" in first.stderr
    assert "step" not in again.stderr
    assert first.stdout == again.stdout
    rows = {line.split()[0]: line.split()[1:3] for line in first.stdout.splitlines() if line.strip()}
    assert {"position", "presence", "counting"} < set(rows)
    assert rows["position"][1] in {"0.0-65.8", "9.5-90.5", "34.2-100.0"}  # Wilson's, of two questions
    assert (tmp_path / "rcp-37" / checkpoints.WEIGHTS).is_file()
    with pytest.raises(FedsimError, match="unknown small model 'rcp-38'. Did you mean 'rcp-37'"):
        told("model", "rcp-38")


def test_steps_of_a_training_are_shown_now_and_then_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([100.0, 104.0, 112.0, 113.0, 120.0])  # seconds
    monkeypatch.setattr(bench.time, "monotonic", lambda: next(clock))
    show = bench._Steps()
    for number in (41, 43, 47, 48, 50):
        show(TrainingStep("encoder", number, 50, 0.25, "a note" if number == 47 else ""))
    assert capsys.readouterr().err.splitlines() == [
        "  encoder, step 41 of 50: loss 0.250",
        "  encoder, step 47 of 50: loss 0.250, a note, 6.0 s left",  # 6 steps in 12 seconds, and 3 more
        "  encoder, step 50 of 50: loss 0.250",
    ]
