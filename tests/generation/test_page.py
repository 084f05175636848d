"""The page on generation, run as it stands."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedsim.core import registry, seeding
from fedsim.core.types import Config, Limits
from fedsim.generation import generate
from tests.components.generating import prompts, sources
from tests.components.unmasking import tiny_llada

PAGE = Path(__file__).parents[2] / "docs" / "generation.md"


@pytest.fixture
def names() -> dict[str, Any]:
    """What the page's code defines, in one module's worth of names."""
    found: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.S | re.M)
    assert len(blocks) == 5
    with registry.temporary(), seeding.isolate_randomness(0), pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "page", ModuleType("page", "A page."))
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), found)
        assert registry.get("component", "hasty").hook == "decoder"
        assert registry.get("component", "inside-out").hook == "unmasker"
    return found


def test_its_code_runs_and_does_what_it_says(names: dict[str, Any]) -> None:
    assert [len(name.tokens) for name in names["texts"]] == [6, 6]
    views = names["views"]
    assert views["counts"].counts == (1,) * 6
    assert views["work"].work == {"rows": (1,) * 6}
    assert views["outputs"].output == names["texts"][0].tokens
    assert [name.trace.tokens for name in names["hidden"]] == [(1,) * 6, (1,) * 6]
    hasty, limits = names["Hasty"], names["limits"]
    for sure, counts in ((1e-3, (2, 2, 2)), (1.0, (1,) * 6)):
        (found,) = generate(
            hasty(names["HastyConfig"](sure=sure)), names["model"], prompts([1, 2, 3]), limits, sources(1)
        )
        assert found.trace.tokens == counts
        assert found.ending == "length"


def test_its_unmasker_starts_in_the_middle(names: dict[str, Any]) -> None:
    inside_out = names["InsideOut"](Config())
    (found,) = generate(inside_out, tiny_llada(), prompts([1]), Limits(max_new_tokens=4), sources(1))
    assert found.trace.places == ((2,), (1,), (3,), (0,))


def test_the_page_names_every_view() -> None:
    from fedsim.questions.generation.observe import VIEWS

    assert all(f"| `{view}` |" in PAGE.read_text() for view in VIEWS)
