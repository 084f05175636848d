"""`fedsim compare`, as a person uses it: in a process of its own."""

from pathlib import Path

from tests.cli.typed import fedsim


def test_a_sweep_is_compared_with_itself(swept: Path) -> None:
    done = fedsim("compare", "s", "s", cwd=swept)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no difference shown") == 4


def test_a_folder_of_neither_is_one_sentence(swept: Path) -> None:
    refused = fedsim("compare", "s", "nowhere", cwd=swept)
    assert refused.returncode == 2
    assert refused.stderr.strip() == "nowhere holds no record.json: not a run folder."
