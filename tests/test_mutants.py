"""The tool that changes source files and counts what no test notices."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedsim.metrics.statistics import wilson
from tests import mutants

TOOL = Path(mutants.__file__)
SOURCE = "def is_adult(age: int | None) -> bool:\n    return age is not None and age >= 18\n"
TEST = """
from room.ages import is_adult

def test_ages():
    assert is_adult(30)
    assert not is_adult(3)
    assert not is_adult(None)
"""
LOOP = "def drain(names):\n    while names:\n        names.pop()\n    return names\n"
LOOP_TEST = "from room.loop import drain\n\ndef test_drain():\n    assert drain([1, 2]) == []\n"


def made(code: str) -> set[tuple[str, str]]:
    return {(mutant.operator, mutant.code) for mutant in mutants.mutants(code)}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of two files, each with its mirrored test."""
    folder = tmp_path / "project"
    files = {
        "pyproject.toml": '[tool.pytest.ini_options]\naddopts = ["--import-mode=importlib"]\npythonpath = ["."]\n'
        'markers = ["slow: long"]\n',
        "room/__init__.py": "",
        "room/ages.py": SOURCE,
        "room/loop.py": LOOP,
        "tests/room/test_ages.py": TEST,
        "tests/room/test_loop.py": LOOP_TEST,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    subprocess.run(["git", "init", "-q", folder], check=True)
    return folder


def start(project: Path, *arguments: str) -> subprocess.Popen[str]:
    (project.parent / "temporary").mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(project.parent / "temporary"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [sys.executable, TOOL, *arguments],
        cwd=project,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(project: Path, *arguments: str) -> tuple[int, str, str]:
    process = start(project, *arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def contents(project: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in project.rglob("*") if path.is_file() and ".git" not in path.parts}


def test_changes_what_a_slip_could_make() -> None:
    assert made("x = a < b\n") == {
        ("ReplaceComparisonOperator_Lt_LtE", "x = a <= b\n"),
        ("ReplaceComparisonOperator_Lt_Gt", "x = a > b\n"),
    }
    assert made("x = a - b\n") == {("ReplaceBinaryOperator_Sub_Add", "x = a + b\n")}
    assert ("DropStatement", "def f():\n    pass\n") in made("def f():\n    check(1)\n")
    assert ("DropStatement", "pass\n") in made("x += a\n")


@pytest.mark.parametrize(
    ("operator", "example"),
    [(own, example) for own in (mutants.DropStatement, mutants.ExceptionReplacer) for example in own.examples()],
)
def test_operators_change_what_their_examples_say(operator: type[mutants.Operator], example: mutants.Example) -> None:
    assert mutants.mutate_code(example.pre_mutation_code, operator(), 0) == example.post_mutation_code
    assert (operator.__name__, example.post_mutation_code) in made(example.pre_mutation_code)


@pytest.mark.parametrize(
    "declaration",
    [
        "def f(x: a | b) -> a | b: ...\n",
        "x: a | b\n",
        "@dataclass(frozen=True)\nclass A: ...\n",
        "@dataclasses.dataclass(frozen=True)\nclass A: ...\n",
        "x = zip(a, b, strict=True)\n",
        "if TYPE_CHECKING:\n    import a\n",
    ],
)
def test_leaves_declarations(declaration: str) -> None:
    assert not made(declaration)


def test_draws_one_change_of_each_place() -> None:
    every = mutants.mutants("x = [1, 2, 3, 4, 5, 6, 7, 8]\n")
    samples = mutants.sample(every, 5, "0")
    assert len(every) == 16
    assert len({mutant.column for mutant in samples}) == len(samples) == 5
    assert samples == mutants.sample(every, 5, "0")
    assert samples != mutants.sample(every, 5, "1")
    assert len(mutants.sample(every, 100, "0")) == 8
    assert mutants.sample(every, None, "0") == every


@pytest.mark.parametrize(("noticed", "n"), [(0, 7), (7, 7), (3, 10), (29, 30)])
def test_its_interval_is_fedsims(noticed: int, n: int) -> None:
    interval = wilson(noticed, n)
    assert mutants.wilson(noticed, n) == pytest.approx(
        (interval.low, interval.high), abs=1e-12
    )  # both in double precision


@pytest.mark.slow
def test_tells_killed_from_survived_and_leaves_the_tree_alone(project: Path) -> None:
    before = contents(project)
    code, out, err = run(project, "room/ages.py", "--json", "../out.json")
    assert (code, err) == (0, "")
    assert contents(project) == before
    assert not list((project.parent / "temporary").iterdir())
    [tally] = json.loads((project.parent / "out.json").read_text())
    outcomes = {
        (trial["operator"], trial["diff"].splitlines()[-1].strip()): trial["outcome"] for trial in tally["trials"]
    }
    assert outcomes["ReplaceComparisonOperator_GtE_LtE", "+    return age is not None and age <= 18"] == "killed"
    assert outcomes["ReplaceAndWithOr", "+    return age is not None or age >= 18"] == "killed"
    assert outcomes["ReplaceComparisonOperator_GtE_Gt", "+    return age is not None and age > 18"] == "survived"
    assert "+    return age is not None and age > 18" in out
    killed, survived = (list(outcomes.values()).count(outcome) for outcome in ("killed", "survived"))
    assert out.splitlines()[-1].startswith(f"| room/ages.py | {len(outcomes)} | {killed} | 0 | {survived} | ")


@pytest.mark.slow
def test_an_endless_change_is_noticed(project: Path) -> None:
    code, out, _ = run(project, "room/loop.py", "--limit", "15", "--json", "../out.json")
    [tally] = json.loads((project.parent / "out.json").read_text())
    assert code == 0
    assert {trial["operator"]: trial["outcome"] for trial in tally["trials"]} == {
        "AddNot": "killed",
        "DropStatement": "timed out",
    }
    assert out.splitlines()[-1].startswith("| room/loop.py | 2 | 1 | 1 | 0 | 1.00 | ")


def test_a_test_that_fails_without_a_change_is_a_mistake(project: Path) -> None:
    (project / "room/ages.py").write_text(SOURCE.replace(">=", "<"))
    code, out, err = run(project, "room/ages.py")
    assert (code, out) == (2, "")
    assert "the tests of room/ages.py do not pass while it is unchanged" in err
    assert "assert is_adult(30)" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["room/years.py"], "there is no source file 'room/years.py'"),
        (["room/__init__.py"], "name them under [tool.mutants.tests]"),
        (["room/ages.py", "--sample", "0"], "expected a whole number from 1, got '0'"),
        (["room/ages.py", "--json", "nowhere/out.json"], "no folder 'nowhere'"),
    ],
)
def test_says_what_is_missing(project: Path, arguments: list[str], message: str) -> None:
    code, _, err = run(project, *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_a_folder_without_git_is_a_mistake(project: Path) -> None:
    shutil.rmtree(project / ".git")
    code, _, err = run(project, "room/ages.py")
    assert (code, err) == (2, "this folder is no checkout of git, which says what to copy; run git init in it\n")


def test_a_table_names_tests_that_live_elsewhere(project: Path) -> None:
    (project / "tests/room/test_ages.py").rename(project / "tests/test_people.py")
    with (project / "pyproject.toml").open("a") as file:
        file.write('[tool.mutants.tests]\n"room/ages.py" = ["tests/test_people.py"]\n')
    code, out, _ = run(project, "room/ages.py", "--sample", "1")
    assert code == 0
    assert "by tests/test_people.py" in out


def waits_in_the_endless_one(project: Path) -> bool:
    copies = (project.parent / "temporary").glob("*/project/room/loop.py")
    return any("pass" in copy.read_text() for copy in copies)


@pytest.mark.slow
@pytest.mark.parametrize("name", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_ends_with_what_was_found_and_leaves_nothing_behind(project: Path, name: signal.Signals) -> None:
    before = contents(project)
    process = start(project, "room/loop.py", "--limit", "60")
    deadline = time.monotonic() + 60
    while not waits_in_the_endless_one(project) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(name)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "stopped; the working tree is as it was\n"
    assert "| room/loop.py | 1 | 1 | 0 | 0 | 1.00 |" in out
    assert contents(project) == before
    assert not list((project.parent / "temporary").iterdir())
