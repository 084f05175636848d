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
        ('[{name = "cutmix"}]', "it mixes pairs of images of a batch, but a batch holds 1."),
        (
            '[{name = "feature-cutmix", at = "2", size = [4, 4]}]',
            "it mixes pairs of maps of a batch, but a batch holds 1.",
        ),
        (
            '[{name = "co-teaching"}]',
            "each network scores a half of the batch, but a batch holds 1. Set same_batch = true.",
        ),
    ],
)
def test_a_batch_of_one_where_pairs_are_needed(
    components: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(tmp_path, monkeypatch, capsys, components, told, "--set", "federation.batch_size=1")


@pytest.mark.parametrize(
    ("components", "told"),
    [
        ('[{name = "codebook", at = ["2"], width = 40}]', "its codes have 40 entries, more than the 24 of '2'."),
        ('[{name = "codebook", at = ["2"], groups = 5}]', "'2' returns 24 entries, not a multiple of the 5 groups."),
        ('[{name = "nested-dropout", kept = 25}]', "kept is 25, but its layer has 24 channels."),
        (
            '[{name = "lora", targets = ["*"], rank = 25}]',
            "rank is 25, expected at most 24, the width of '1'.",
        ),
        (
            '[{name = "allora", targets = ["*"], rank = 25}]',
            "rank is 25, expected at most 24, the width of '1'.",
        ),
        (
            '[{name = "key-value-bottleneck", active = 300}]',
            "active is 300, expected at most 256, the pairs of a codebook.",
        ),
    ],
)
def test_more_than_a_layer_is_wide(
    components: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(tmp_path, monkeypatch, capsys, components, told)


@pytest.mark.parametrize(
    ("components", "told"),
    [
        ('[{name = "codebook", at = ["33"]}]', "no layer is called '33'. Did you mean '3'?"),
        ('[{name = "feature-cutmix", at = "33", size = [4, 4]}]', "no layer is called '33'. Did you mean '3'?"),
        ('[{name = "key-value-bottleneck", at = "33"}]', "no layer is called '33'. Did you mean '3'?"),
        (
            '[{name = "multi-sample-dropout", at = "33"}]',
            "no dropout, flattening or pooling layer is called '33'. Did you mean '3'?",
        ),
        ('[{name = "nested-dropout", at = "33"}]', "no dropout layer is called '33'. Did you mean '3'?"),
        ('[{name = "lora", targets = ["linear*"]}]', "no linear layer"),
        ('[{name = "freeze", parameters = ["1.wait"]}]', "no parameter matches '1.wait'. Did you mean '1.weight'?"),
    ],
)
def test_no_layer_of_that_name(
    components: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(tmp_path, monkeypatch, capsys, components, told)


@pytest.mark.parametrize(
    ("components", "told"),
    [
        (
            '[{name = "co-teaching"}, {name = "co-teaching"}]',
            "components: co-teaching and co-teaching both define the client's loss.",
        ),
        ('[{name = "cutmix"}, {name = "cutmix", mode = "mixup"}]', "the components name it twice"),
        (
            '[{name = "codebook", at = ["2"]}, {name = "codebook", at = ["2"]}]',
            "'2' has a codebook already. Name it once.",
        ),
    ],
)
def test_two_components_where_one_has_room(
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
