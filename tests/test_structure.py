"""Exported classes have unique names; no test depends on another test, by imports or by random generators."""

from __future__ import annotations

import ast
import importlib
import random
import re
import zlib
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).parent.parent


@cache
def count_classes() -> Counter[str]:
    """Return how many classes have each name, from one parse of all files."""
    files = [file for room in ("fedsim", "attacks", "defenses") for file in (REPOSITORY / room).rglob("*.py")]
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    return Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))


@pytest.mark.parametrize("package", ["fedsim", "fedsim.core.hooks", "fedsim.core.types", "fedsim.record"])
def test_an_exported_class_has_a_name_that_no_other_class_has(package: str) -> None:
    exported = set(importlib.import_module(package).__all__)
    assert [name for name, count in count_classes().items() if count > 1 and name in exported] == []


def test_no_test_imports_another_tests_file() -> None:
    imports = re.compile(r"^from tests[\w.]*\.test_\w+ import|^from tests[\w.]* import test_", re.MULTILINE)
    files = (REPOSITORY / "tests").rglob("*.py")
    guilty = [str(file.relative_to(REPOSITORY)) for file in files if imports.search(file.read_text(encoding="utf-8"))]
    assert not guilty, "what several tests need stands in a module beside them"


@pytest.mark.parametrize("case", range(2))
def test_a_draw_without_a_source_is_that_of_the_tests_name(request: pytest.FixtureRequest, case: int) -> None:
    seed = zlib.crc32(request.node.nodeid.encode())
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(seed)))
    assert np.random.random() == np.random.RandomState(seed).random()
    assert random.random() == random.Random(seed).random()


def made_targets() -> set[str]:
    """Return the targets that the job of a pull request and the workflows ask `make` for."""
    jobs = [REPOSITORY / ".ci" / "run", *(REPOSITORY / ".github" / "workflows").glob("*.yml")]
    calls = re.compile(r"\bmake((?: [\w./-]+\b(?!=))+)")
    return {word for job in jobs for call in calls.findall(job.read_text()) for word in call.split()}


def test_every_target_that_a_job_makes_has_a_rule() -> None:
    """`make` calls a folder of the target's name "nothing to be done" and ends well, without a test."""
    rules = re.findall(r"^([^#\s:=][^:=]*):(?!=)", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
    named = {word.replace("$(VENV)", ".venv") for rule in rules for word in rule.split()} - {".PHONY"}
    assert "test" in made_targets()
    assert sorted(made_targets() - named) == []
