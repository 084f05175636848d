"""A result is stale after a change of behaviour; words, layout and imports of a file do not count."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from benchmarks import _sources
from benchmarks._sources import ROOT

SOURCE = '"""Doubles."""\n\ndef double(x):\n    """Return twice x."""\n    return 2 * x  # not x + x\n'


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        (SOURCE.replace("# not x + x", "# quick"), True),
        (SOURCE.replace("Return twice x.", "Return x + x."), True),
        (SOURCE.replace("2 * x", "(2\n        * x)"), True),
        (SOURCE.replace('    """Return twice x."""\n', ""), True),
        (SOURCE.replace("\n\n", "\n\nimport math\nfrom os import path\n\n", 1), True),
        (SOURCE.replace("    return", "    from os import path\n\n    return"), True),
        (SOURCE.replace("2 * x", "3 * x"), False),
        (SOURCE.replace("def double(x):", "def double(y, x=1):"), False),
        (SOURCE.replace("2 * x", '"2 * x"'), False),
    ],
)
def test_a_digest_follows_behaviour_alone(other: str, is_same: bool) -> None:
    assert (_sources.digest(other) == _sources.digest(SOURCE)) == is_same


METHOD = '@attack("toy", summary="a", tier="core", paper="1", fidelity="variant", deviates="b")\nclass Toy:\n    pass\n'


@pytest.mark.parametrize(
    ("before", "after", "is_same"),
    [
        ('summary="a"', 'summary="another"', True),
        (
            'fidelity="variant", deviates="b"',
            'fidelity="reproduction", paper_steps=(("a", "b"),), related="2"',
            True,
        ),
        ('"toy"', '"other"', False),
        ('tier="core"', 'tier="baseline"', False),
        ('deviates="b")', 'deviates="b", aliases=("t",))', False),
    ],
)
def test_what_a_decorator_says_of_the_paper_is_no_behaviour(before: str, after: str, is_same: bool) -> None:
    assert before in METHOD
    assert (_sources.digest(METHOD.replace(before, after)) == _sources.digest(METHOD)) == is_same


def test_what_an_attack_expects_to_cost_is_no_behaviour() -> None:
    before = METHOD.replace("    pass\n", "    def outlook(self):\n        return 1\n    rate = 2\n")
    assert _sources.digest(before.replace("return 1", "return 2")) == _sources.digest(before)
    assert _sources.digest(before.replace("rate = 2", "rate = 3")) != _sources.digest(before)


def test_the_interval_of_a_success_rate_is_behaviour() -> None:
    statistics = (ROOT / "fedsim" / "metrics" / "statistics.py").read_text(encoding="utf-8")
    assert "def success(shares" in statistics
    assert _sources.digest(statistics.replace("def success(shares", "def other(shares")) != _sources.digest(statistics)


def test_a_function_of_nothing_but_imports_has_a_digest() -> None:
    body = "def load():\n    "
    assert _sources.digest(body + "import torch\n") == _sources.digest(body + "pass\n")


SCENARIO = 'title = "a"\nseed = 1\n[data]\nname = "mnist"\n'


@pytest.mark.parametrize(
    ("before", "after", "is_same"),
    [
        ('title = "a"', 'title = "b"', True),
        ("seed = 1", "seed = 1  # any", True),
        ("seed = 1", "seed = 2", False),
        ("mnist", "digits", False),
    ],
)
def test_the_digest_of_a_scenario_follows_its_run_alone(before: str, after: str, is_same: bool) -> None:
    assert before in SCENARIO
    assert (_sources.digest_of_table(SCENARIO.replace(before, after)) == _sources.digest_of_table(SCENARIO)) == is_same


def test_the_files_of_a_measurement_are_modules_tables_and_programs_that_it_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sources, "ROOT", tmp_path)
    monkeypatch.setattr(_sources, "FOLDER", tmp_path / "benchmarks")
    written = {
        **dict.fromkeys(("attacks/toy.py", "attacks/other.py", "fedsim/core/toy.py"), "depth = 1"),
        **dict.fromkeys(("benchmarks/_program.py", "benchmarks/toy.py"), "depth = 2"),
        **dict.fromkeys(("scenarios/toy.toml", "scenarios/other.toml", "pyproject.toml"), "seed = 3"),
        **dict.fromkeys(("benchmarks/_peer.py", "benchmarks/_child.py"), ""),
    }
    for path, text in written.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    def load(*paths: str) -> None:
        for path in paths:
            module = types.ModuleType(path)
            module.__file__ = str(tmp_path / path)
            monkeypatch.setitem(sys.modules, path.removesuffix(".py").replace("/", "."), module)

    read, write = os.pipe()
    if (child := os.fork()) == 0:  # a hook cannot be removed: it would slow every later test of this process
        try:
            load("benchmarks/_program.py")
            loaded = _sources.LoadedFiles()
            load("benchmarks/toy.py", "attacks/toy.py", "fedsim/core/toy.py")
            (tmp_path / "scenarios" / "toy.toml").read_text()
            (tmp_path / "pyproject.toml").read_bytes()
            subprocess.run([sys.executable, "-c", "", tmp_path / "benchmarks" / "_peer.py"], check=True)
            subprocess.run([sys.executable, "-c", "", "-m", "benchmarks._child"], check=True)
            os.write(write, json.dumps(loaded.digests()).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with open(read) as pipe:
        digests = json.load(pipe)
    assert digests == {
        "attacks/toy.py": _sources.digest("depth = 1"),
        "benchmarks/_child.py": _sources.digest(""),
        "benchmarks/_peer.py": _sources.digest(""),
        "benchmarks/toy.py": _sources.digest("depth = 2"),
        "scenarios/toy.toml": _sources.digest_of_table("seed = 3"),
    }


def test_changed_and_removed_files_make_a_result_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sources, "ROOT", tmp_path)
    (tmp_path / "toy.py").write_text("depth = 1  # any")
    (tmp_path / "case.toml").write_text("depth = 2")
    same = {"toy.py": _sources.digest("depth = 1"), "case.toml": _sources.digest_of_table("depth = 2")}
    assert _sources.changed_files(same) == []
    others = {"toy.py": _sources.digest("depth = 2"), "case.toml": _sources.digest_of_table("depth = 3")}
    assert _sources.changed_files({**others, "gone.py": "12345678"}) == ["toy.py", "case.toml", "gone.py"]
