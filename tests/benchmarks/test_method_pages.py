"""Generated pages of methods: all that the decorator, the docstring, the settings and the results say of a method."""

import re
from dataclasses import replace
from functools import cache

import pytest

from benchmarks import _method_pages
from benchmarks._rows import Row
from fedsim.cli.pages import Page, page_of
from fedsim.core.registry.index import entries_of
from fedsim.core.registry.method import KINDS, Entry

DOC = """toy: keep x_i < 1 of g* | alone, as `a_b*`.

A paragraph
of two lines.

Idea: the mean, n > 2 (arXiv 2403.03945).
Equation: y = a * b
    for x < 1
Fails: n > 2 clients.
"""
PLAIN = Entry(kind="attack", name="toy", module="attacks.toy", summary="a toy", aliases=("plaything",))
STEPS = (("first", "Toy.run"), ("second", ""))
CITED = replace(PLAIN, tier="research", paper="2403.03945", fidelity="variant", deviates="one step is missing")
ENTRY = replace(CITED, paper_steps=STEPS, related="Somebody 1999")


@cache
def made(kind: str, name: str) -> str:
    entry = entries_of(kind)[name]  # type: ignore[arg-type]
    return _method_pages.as_markdown(entry, page_of(entry))


def test_a_page_says_all_that_the_decorator_and_the_import_say(monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = {(ENTRY.name, "first"): "tests/attacks/test_toy.py::test_it"}
    monkeypatch.setattr(_method_pages._papers, "oracles", lambda: oracle)
    page = Page(DOC, ["masks (the masks)"], [("rate", "0.5", "number > 0", "a share | of all")], 'title = "small"\n')
    text = _method_pages.as_markdown(ENTRY, page)
    assert text.startswith(
        "# toy\n\nKeep x\\_i \\< 1 of g\\* &#124; alone, as `a_b*`.\n\nA paragraph of two lines.\n\n"
    )
    assert "**Idea.** The mean, n > 2 ([arXiv 2403.03945](https://arxiv.org/abs/2403.03945)).\n" in text
    assert "**Equation.**\n\n```text\ny = a * b\n    for x < 1\n```\n" in text
    assert "**Fails.** n > 2 clients.\n" in text
    for line in (
        "- **Kind**: attack",
        "- **Tier**: research",
        "- **Also called**: `plaything`",
        "- **Paper**: a variant of [arXiv 2403.03945](https://arxiv.org/abs/2403.03945): one step is missing",
        "- **Related paper, of other authors**: Somebody 1999",
        "- **Needs the threat model to grant**: masks (the masks)",
        "- **Code**: `attacks.toy`",
        "| `rate` | 0.5 | number > 0 | a share &#124; of all |",
        "| first | `attacks.toy.Toy.run` | `tests/attacks/test_toy.py::test_it` |",
        "| second | not built |  |",
    ):
        assert f"\n{line}\n" in text
    assert text.endswith('```toml\ntitle = "small"\n```\n')
    assert "## Measured" not in text


def test_what_a_method_lacks_has_no_heading() -> None:
    text = _method_pages.as_markdown(
        Entry(kind="metric", name="toy", module="m", summary="s"), Page("toy: all.", [], [], "")
    )
    assert text == "# toy\n\nAll.\n\n- **Kind**: metric\n- **Code**: `m`\n"


def test_measured_rows_are_those_of_the_method_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    text = made("attack", "spear")
    assert "| spear, MLP with ReLU and bias, MNIST, B = 4 |" in text
    assert "`python -m benchmarks attack-family`" in text
    measured = text.partition("## Measured")[2].partition("- **Pages that name it**")[0]
    assert "sparse-dictionary" not in measured
    rows = [Row(name="PSNR", setting=f"toy, B = {count}", value=count, unit="dB", n=1) for count in range(14)]
    rows += [Row(name="PSNR", setting="toyish, B = 1", value=77.0, unit="dB", n=1)]
    result = _method_pages._results()[0].model_copy(update={"cells": {"all": rows}})
    monkeypatch.setattr(_method_pages, "_results", lambda: (result,))
    _, table, origin = _method_pages._measured_rows("toy")
    assert [f"| toy, B = {count} | {count} | 1 |" in table for count in (0, 11, 12)] == [True, True, False]
    assert "toyish" not in table
    assert origin.endswith("2 further rows: the page of the experiment.")


def test_a_page_links_to_handwritten_pages_and_names_scenarios() -> None:
    text = made("component", "nested-dropout")
    assert "[Nested Dropout and Co-teaching](../../components/nested-dropout.md)" in text
    assert "`scenarios/52_nested_dropout.toml`" in text
    assert "\n| checkpoint of the best validation accuracy | not built |  |\n" in text
    assert "scenarios/62" not in text
    assert not [file for file, text in _method_pages._scenarios().items() if "\nfigures = [" in text]


@pytest.mark.slow  # the site, built without warnings, has them too
def test_every_method_has_a_page_and_a_line_in_the_list() -> None:
    paths = [path for path, _ in _method_pages.pages()]
    assert len(paths) == len(set(paths)) == sum(len(entries_of(kind)) for kind in KINDS)
    listing = _method_pages.listing("reference/methods.md")
    linked = re.findall(r"^[|] .*?[(][.][.]/(methods/[^)]+)[)]", listing, re.MULTILINE)
    assert linked == paths
    assert "| a reproduction of [arXiv 2112.03570](https://arxiv.org/abs/2112.03570) |\n" in listing
    assert "| a reproduction of Srivastava 2014 |\n" in listing


def test_names_become_links_where_they_cannot_be_values() -> None:
    markdown = (
        "# `spear`\n| `mean`, `spear` | `mean`, `plateau`, `gradient-noise` |\nA `spear`, `mean`, [`spear`](x.md).\n"
        "```sh\n`spear`\n```\n`spear`"
    )
    spear, noise = "[`spear`](../methods/attack/spear.md)", "[`gradient-noise`](../methods/defense/gradient-noise.md)"
    assert _method_pages.with_links(markdown, "attacks/exact.md") == (
        f"# `spear`\n| [`mean`](../methods/aggregator/mean.md), {spear} | `mean`, `plateau`, {noise} |\n"
        f"A {spear}, `mean`, [`spear`](x.md).\n```sh\n`spear`\n```\n{spear}"
    )


def test_a_name_that_two_methods_have_is_no_link() -> None:
    assert {"exposure" in entries_of(kind) for kind in ("question", "metric")} == {True}
    assert _method_pages.with_links("| `exposure` | `fixed` |", "a.md") == "| `exposure` | `fixed` |"
