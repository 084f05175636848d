"""Steps of papers: their code can be imported, and their tests exist and run this code."""

import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import _papers
from fedsim.core.registry.index import entries_of
from fedsim.core.registry.method import KINDS, Entry
from tests.benchmarks import entering
from tests.benchmarks.entering import Claim, Entering

ROOT = Path(__file__).parents[2]
CLAIMS = entering.claims()


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.step)
def test_the_code_of_a_step_is_there(claim: Claim) -> None:
    assert entering.codes_of(entering.importable(claim.code)), "the code of a step is a function, or a class with some"


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted({claim.path for claim in CLAIMS}))
def test_the_oracle_of_a_step_runs_the_code_of_the_step(path: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.entering", path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]


def test_reproductions_and_variants_list_their_steps_and_a_reproduction_lacks_none() -> None:
    entries = [entry for kind in KINDS for entry in entries_of(kind).values()]
    assert not [e.name for e in entries if e.fidelity in ("reproduction", "variant") and not e.paper_steps]
    reproductions = [entry for entry in entries if entry.fidelity == "reproduction"]
    assert reproductions
    assert not [entry.name for entry in reproductions for _step, code in entry.paper_steps if not code]


def test_every_built_step_has_a_test_and_every_marked_test_a_built_step() -> None:
    built = {(entry.name, step) for entry in _papers.stepwise() for step, code in entry.paper_steps if code}
    assert built == set(_papers.oracles())


def test_names_are_those_of_the_methods_files_unless_they_are_whole() -> None:
    entry = Entry(kind="attack", name="tag", module="attacks.text.tag", summary="")
    assert _papers.place_of(entry, "Tag.search") == "attacks.text.tag.Tag.search"
    assert _papers.place_of(entry, "fedsim.core.sanitize.plain") == "fedsim.core.sanitize.plain"


def claim(code: str, test: str) -> Claim:
    return Claim("a method: a step", f"{__name__}.{code}", str(Path(__file__).relative_to(ROOT)), test)


def twice(number: int) -> int:
    return 2 * number


@cache
def thrice(number: int) -> int:
    return 3 * number


class Counter:
    """A class whose functions are all its code."""

    @property
    def one(self) -> int:
        return 1

    @staticmethod
    def two() -> int:
        return twice(1)


def test_code_is_that_of_functions_methods_and_properties_under_their_wrappers() -> None:
    assert entering.codes_of(twice) == {twice.__code__}
    assert entering.codes_of(thrice) == {thrice.__wrapped__.__code__}
    assert len(entering.codes_of(Counter)) == 2
    assert entering.codes_of(Counter.one) | entering.codes_of(Counter.two) == entering.codes_of(Counter)
    assert entering.importable("tests.benchmarks.entering.Claim") is Claim
    assert not entering.codes_of(3)


def _run(plugin: Entering, test: str, body: Sequence[Any]) -> None:
    """Run the plugin's hook around calls of functions with the number 2, as pytest runs it around a test."""
    item: Any = SimpleNamespace(name=test, originalname=test)
    hook = plugin.pytest_runtest_protocol(item)
    profile = sys.getprofile()
    next(hook)
    try:
        for function in body:
            function(2)
    finally:
        with pytest.raises(StopIteration):
            next(hook)
        sys.setprofile(profile)


def test_of_a_skipped_test_nothing_is_claimed(tmp_path: Path) -> None:
    file = tmp_path / "test_toys.py"
    file.write_text(
        "import pytest\n"
        "def test_skipped(): pytest.importorskip('no_such_package')\n"
        "def test_idle(): pass\n"
        "@pytest.mark.parametrize('number', [1, 2])\n"
        "def test_busy(number): pytest.importorskip('tests.benchmarks.entering').importable('pathlib.Path')\n"
    )
    program = (
        "from tests.benchmarks import entering\n"
        f"claims = [entering.Claim(test, 'tests.benchmarks.entering.importable', {str(file)!r}, test) "
        "for test in ('test_skipped', 'test_idle', 'test_busy')]\n"
        f"entering.claims = lambda: claims\nraise SystemExit(entering.main({str(file)!r}))"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    said = [line for line in run.stdout.splitlines() if "does not run" in line]
    assert (run.returncode, len(said)) == (1, 1), run.stdout + run.stderr
    assert said[0].startswith("test_idle: ")


def test_a_claim_is_missing_until_its_own_test_runs_its_code() -> None:
    claims = [claim("twice", "test_a"), claim("thrice", "test_a"), claim("twice", "test_b")]
    plugin = Entering(claims)
    _run(plugin, "test_a", [twice])
    assert [list(claimed) for claimed in plugin.missing.values()] == [[claims[1]], [claims[2]]]
    thrice(2)
    _run(plugin, "test_a", [thrice])  # its answer was kept, so that a call would not run it
    assert [list(claimed) for claimed in plugin.missing.values()] == [[], [claims[2]]]
    _run(plugin, "test_b", [])
    assert list(plugin.missing["test_b"]) == [claims[2]]
