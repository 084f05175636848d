"""`fedsim compare`, as a person uses it: in a process of its own."""

import shutil
from pathlib import Path

from tests.cli.typed import fedsim


def test_a_sweep_is_compared_with_itself(swept: Path) -> None:
    shutil.copytree(swept / "s", swept / "again")
    done = fedsim("compare", "s", "again", cwd=swept)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no difference shown") == 4


def test_a_folder_of_neither_is_one_sentence(swept: Path) -> None:
    refused = fedsim("compare", "s", "nowhere", cwd=swept)
    assert refused.returncode == 2
    assert refused.stderr.strip() == "there is no folder nowhere."
    twice = fedsim("compare", "s", "./s", cwd=swept)
    assert (twice.returncode, twice.stderr.strip()) == (2, "s and s are the same folder. Name two.")
