"""`fedsim new` writes a method that is listed and passes its contract, and a test that passes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedsim.cli.commands import new
from fedsim.cli.templates import families as known_families
from fedsim.cli.templates import registered_name, write_new
from fedsim.core import registry
from fedsim.core.errors import FedsimError
from tests.cli.typed import ROOT, Say, fresh
from tests.mirror import mirrored


def families(kind: str, *names: str) -> list[tuple[str, tuple[str, ...], str]]:
    return [(kind, ("--family", name), name) for name in names]


NEW = [
    ("attack", (), "gradient_matching"),
    ("attack", ("--template", "closed-form"), "closed_form"),
    ("attack", ("--template", "text"), "text"),
    ("attack", ("--template", "text", "--family", "codebooks"), "codebooks"),
    ("attack", ("--template", "malicious"), "malicious_server"),
    ("attack", ("--family", "local_steps"), "local_steps"),
    ("defense", (), "norm"),
    *families("defense", "batch", "model", "examples", "received", "noise"),
    ("component", (), "augment"),
    *families("component", "layer", "adapter", "bottleneck", "token_reducer", "loss", "optimizer"),
    *families("component", "decoder", "sampler", "probe", "unmasker", "mitigation", "unlearning"),
    ("metric", (), ""),
    ("question", (), ""),
    ("task", (), ""),
]
PLACES = {
    "attack": "attacks",
    "defense": "defenses",
    "component": "fedsim/components",
    "metric": "fedsim/metrics",
    "question": "fedsim/questions",
    "task": "fedsim/tasks",
}


def listed_name(kind: str, number: int) -> str:
    """The name of a method by its place in `NEW`."""
    return registered_name(kind, f"my-{kind}-n{number}")  # type: ignore[arg-type]


def python(checkout: Path, *arguments: str) -> str:
    """Return what Python prints in a checkout, in one process of its own; it must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "COLUMNS": "200"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return done.stdout


def run_tests(checkout: Path, *arguments: str) -> None:
    """Run tests of a checkout; they must pass."""
    assert "passed" in python(checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with every kind of file that `fedsim new` writes, each named after its place in `NEW`."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("fedsim", "attacks", "defenses", "tests", "scenarios"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for number, (kind, options, _) in enumerate(NEW):
        like = options[options.index("--template") + 1] if "--template" in options else None
        family = options[options.index("--family") + 1] if "--family" in options else None
        write_new(kind, f"my-{kind}-n{number}", root, family, like)  # type: ignore[arg-type]
    return root


@pytest.fixture
def in_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["attack", "defense", "component", "task"])
def test_a_new_method_is_one_file_that_passes_its_contract(kind: str, checkout: Path) -> None:
    for number, (kind_of_method, _, family) in enumerate(NEW):
        if kind_of_method == kind:
            assert (checkout / PLACES[kind] / family / f"my_{kind}_n{number}.py").exists()
    contracts = (checkout / "tests" / f"{kind}s").rglob("test_*contract.py")
    run_tests(checkout, *map(str, contracts), "tests/test_docstrings.py", "-k", f"my-{kind}")


@pytest.mark.slow
def test_what_was_written_is_listed_and_shown_and_the_test_beside_it_passes(checkout: Path) -> None:
    names = [listed_name(kind, number) for number, (kind, _, _) in enumerate(NEW)]
    listed = fresh("list", "--json", cwd=checkout, path=checkout)
    assert set(names) <= {entry["name"] for entry in json.loads(listed.stdout)}
    script = "import sys; from fedsim.cli.commands.show import show; [show(name) for name in sys.argv[1:]]"
    shown = python(checkout, "-c", script, *names)
    assert all(f"{name} ({kind}" in shown for name, (kind, _, _) in zip(names, NEW, strict=True))
    tests = [mirrored(path.relative_to(checkout)) for path in written(checkout)]
    assert len(tests) == len(NEW)
    run_tests(checkout, *map(str, tests))


def written(checkout: Path) -> list[Path]:
    """The files of methods that were written into the checkout by its fixture."""
    return [path for place in PLACES.values() for path in (checkout / place).rglob("my_*_n*.py")]


def test_new_files_are_as_the_linter_wants_them(checkout: Path) -> None:
    files = [str(path) for path in (*written(checkout), *(checkout / "tests").rglob("test_my_*_n*.py"))]
    assert len(files) == 2 * len(NEW)
    for command in (["check"], ["format", "--check"]):
        python(checkout, "-m", "ruff", *command, *files)


def test_the_command_says_what_it_wrote_and_the_other_families(in_checkout: None, command: Say) -> None:
    code, told, wrong = command("new", "attack", "another")
    assert code == 0, wrong
    assert "Wrote attacks/gradient_matching/another.py and tests/attacks/gradient_matching/test_another.py." in told
    assert "Other families, for --family: batch_separation, closed_form" in told
    code, _, wrong = command("new", "attack", "another")
    assert code == 2
    assert "exists already" in wrong


@pytest.mark.parametrize(
    ("kind", "family", "message"),
    [
        ("attack", "closed_forms", "unknown family 'closed_forms' of attacks. Did you mean 'closed_form'? Known:"),
        ("attack", "core", "unknown family 'core' of attacks"),
        ("attack", "membership", "unknown family 'membership' of attacks"),
        ("defense", "entry", "Did you mean 'entries'?"),
        ("defense", "rounds", "Did you mean 'rounding'?"),
        ("component", "augmentation", "Did you mean 'augment'?"),
    ],
)
def test_a_family_that_is_none_is_answered_with_the_nearest_and_all(kind: Any, family: str, message: str) -> None:
    with pytest.raises(FedsimError, match=re.escape(message)) as told:
        write_new(kind, "my-method", ROOT, family)
    assert all(f"\n  {own.name}" in str(told.value) for own in known_families(kind))


def test_every_family_says_what_it_holds_and_every_folder_is_one() -> None:
    for kind, folder in (("attack", "attacks"), ("defense", "defenses"), ("component", "fedsim/components")):
        folders = {path.parent.name for path in (ROOT / folder).glob("[!_]*/__init__.py")}
        known = {own.name for own in known_families(kind)}  # type: ignore[arg-type]
        modules = {method.module for method in registry.methods(kind).values()}  # type: ignore[arg-type]
        of_questions = {"attributes", "generation", "membership", "trees", "vertical"}
        assert known == {module.split(".")[-2] for module in modules} - of_questions <= folders
        assert all(own.holds for own in known_families(kind))  # type: ignore[arg-type]


def test_a_component_is_written_for_its_hook(in_checkout: None, command: Say) -> None:
    code, told, wrong = command("new", "component", "another-writer", "--hook", "decoder")
    assert code == 0, wrong
    assert "Wrote fedsim/components/decoder/another_writer.py" in told


def test_like_is_for_attacks() -> None:
    with pytest.raises(FedsimError, match="--template chooses among attacks. A defense is written for its family"):
        write_new("defense", "my-defense", ROOT, None, "text")


def test_a_metric_lies_in_one_folder_with_the_others_and_has_underscores(in_checkout: None, command: Say) -> None:
    code, printed, wrong = command("new", "metric", "another-error")
    assert code == 0, wrong
    assert "Wrote fedsim/metrics/another_error.py and tests/metrics/test_another_error.py." in printed
    assert "fedsim show another_error\n" in printed
    assert "families" not in printed
    with pytest.raises(FedsimError, match="a metric has no family: leave --family out"):
        write_new("metric", "my-metric", ROOT, "image")
    with pytest.raises(FedsimError, match="metric 'mse_normalised' exists already"):
        write_new("metric", "mse-normalised", ROOT)


def test_a_test_command_names_pytest_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert new._test_command(Path("x")) == "Its test passes: python -m pytest x"
    monkeypatch.setattr(new, "find_spec", lambda _name: None)
    needs = "Its test needs pytest, which is not installed: pip install pytest, then python -m pytest x"
    assert new._test_command(Path("x")) == needs
