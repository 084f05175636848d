"""Components that do not fit: one sentence on the command line and exit code 2, before anything is trained."""

import sys
from pathlib import Path

import pytest

from fedsim.cli.main import main
from fedsim.scenario.data import Data

SCENARIO = """
title = "small"
[data]
name = "digits"
[model]
name = "mlp"
width = 24
depth = 2
[federation]
clients = 4
batch_size = 4
"""


@pytest.mark.parametrize(
    ("components", "told"),
    [
        ('[{name = "nested-dropout", kept = 25}]', "kept is 25, but its layer has 24 channels."),
        ('[{name = "lora", targets = ["*"], rank = 25}]', "rank is 25, expected at most 24, the width of '1'."),
        (
            '[{name = "key-value-bottleneck", active = 300}]',
            "active is 300, expected at most 256, the pairs of a codebook.",
        ),
        ('[{name = "codebook", at = ["33"]}]', "no layer is called '33'. Did you mean '3'?"),
        (
            '[{name = "co-teaching", same_batch = true}, {name = "co-teaching"}]',
            "components: co-teaching and co-teaching both define the client's loss.",
        ),
    ],
)
def test_a_component_that_does_not_fit_is_refused_before_training(
    components: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(tmp_path, monkeypatch, capsys, components, told)


def test_what_fits_gets_as_far_as_a_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The control: components that fit would train, so that what is counted below is training."""
    components = '[{name = "cutmix"}, {name = "codebook", at = ["2"], width = 24}]'
    said, asked = ended(tmp_path, monkeypatch, capsys, components)
    assert "every client of the round failed" in said
    assert asked > 0


def refused(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    components: str,
    told: str,
    *more: str,
) -> None:
    """Say that the command line refuses the components in one sentence, and that no client asked for a batch."""
    said, asked = ended(folder, monkeypatch, capsys, components, *more)
    assert told in said.replace("\n", " ")
    assert len(said.strip().splitlines()) <= 2
    assert "Traceback" not in said
    assert asked == 0
    assert not list(folder.glob("results/*/record.json"))


def ended(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], components: str, *more: str
) -> tuple[str, int]:
    """Run the command line in `folder`, where clients get no batch; return its complaint, and how many asked."""
    asked: list[object] = []

    def none(*arguments: object) -> None:
        asked.append(arguments)
        raise RuntimeError("no batch")

    (folder / "s.toml").write_text(SCENARIO)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(Data, "batches", none)
    monkeypatch.setattr(sys, "argv", ["fedsim", "run", "s.toml", "--set", f"components={components}", *more])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    return capsys.readouterr().err, len(asked)
