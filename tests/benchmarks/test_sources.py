"""A result is stale after a change of behaviour; words, layout and imports of a file do not count."""

from pathlib import Path

import pytest

from benchmarks import _sources
from benchmarks._experiments import find

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
            'fidelity="reproduction", paper_steps=(("a", "b", "c"),), related="2"',
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


def test_a_function_of_nothing_but_imports_has_a_digest() -> None:
    body = "def load():\n    "
    assert _sources.digest(body + "import torch\n") == _sources.digest(body + "pass\n")


def test_an_experiment_is_measured_by_its_file_its_helpers_what_these_import_and_methods_that_they_name() -> None:
    files = set(_sources.digests_of(find("exact-attacks").module))
    assert {"benchmarks/exact_attacks.py", "benchmarks/_victims.py", "fedsim/metrics/image.py"} <= files
    assert "attacks/batch_separation/sparse_dictionary.py" in files
    assert not {"fedsim/demo/page.py", "fedsim/scenario/__init__.py", "benchmarks/_rows.py"} & files


def test_files_that_changed_came_or_went_make_a_result_old() -> None:
    module = find("photographs").module
    now = _sources.digests_of(module)
    assert _sources.changed_files(now, module) == []
    before = {**now, "benchmarks/gone.py": "1", "benchmarks/photographs.py": "2"}
    del before["fedsim/metrics/image.py"]
    assert _sources.changed_files(before, module) == [
        "benchmarks/gone.py",
        "benchmarks/photographs.py",
        "fedsim/metrics/image.py",
    ]


CASES = "SIDE = 8\nSMALL = {'side': SIDE}\n\ndef many():\n    return [SMALL, 1]\n"


@pytest.mark.parametrize(
    ("before", "after", "is_same"),
    [("[SMALL, 1]", "[SMALL, 2]", True), ("SIDE = 8", "SIDE = 9", False), ("'side'", "'width'", False)],
)
def test_of_a_helper_counts_what_is_imported_and_what_that_uses(
    before: str, after: str, is_same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sources, "ROOT", tmp_path)
    monkeypatch.setattr(_sources, "FOLDER", tmp_path / "benchmarks")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "sizes.py").write_text("from benchmarks._cases import SMALL\nprint(SMALL)\n")
    helper = tmp_path / "benchmarks" / "_cases.py"
    helper.write_text(CASES)
    digests = _sources.digests_of("benchmarks.sizes")
    _sources._used.cache_clear()
    helper.write_text(CASES.replace(before, after))
    assert (_sources.digests_of("benchmarks.sizes") == digests) == is_same
    _sources._used.cache_clear()
