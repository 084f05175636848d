"""The page of published systems: figures with and without the system, claim, privacy and label.

``systems.toml`` names for each system its methods, the scenario with the arm that runs them, the arm or the attack
without them, and the figures. Values are those that the scenario expects; papers and labels stand in the methods'
decorators.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks import _expected, _papers
from benchmarks._markdown import escape_cells, link_path, table
from benchmarks._results import ROOT
from fedsim.core.errors import FedsimError, did_you_mean
from fedsim.core.registry.index import entries_of
from fedsim.core.registry.method import KINDS, Entry
from fedsim.core.types import Config

FILE = Path(__file__).parent / "systems.toml"
_HEADS = ("system", "scenario", "figure", "without", "with")


class Comparison(Config):
    """A figure of a scenario, with and without a system."""

    metric: str
    attack: str = Field(default="", description="label of the attack; empty for a figure of the arm itself")
    control: str = Field(default="", description="label of the attack without the system; unset: the same attack")
    substitute: str = Field(default="", description="text in place of a value without the system")
    arm: str = Field(default="", description="arm with a method of the system; unset: the system's")
    baseline: str = Field(default="", description="arm without that method; unset: the system's")


class System(Config):
    """A published system.

    Attributes:
        arm: arm of the scenario that runs the methods.
        baseline: arm without the methods; unset: the same arm, with `control` of each figure.
        elsewhere: what measures the system where no scenario does, as a sentence.
    """

    name: str
    methods: tuple[str, ...]
    page: str
    claim: str
    privacy: str
    scenario: str = ""
    arm: str = ""
    baseline: str = ""
    figures: tuple[Comparison, ...] = ()
    elsewhere: str = ""


@cache
def systems(file: Path = FILE) -> tuple[System, ...]:
    """Return all systems by name."""
    raw = tomllib.loads(file.read_text(encoding="utf-8"))["system"]
    return tuple(sorted(map(System.model_validate, raw), key=lambda system: system.name.lower()))


def entries(system: System) -> list[Entry]:
    """Return the entries of a system's methods.

    Raises:
        FedsimError: a method is not registered.
    """
    known = {name: entry for kind in KINDS for name, entry in entries_of(kind).items() if entry.paper}
    for name in system.methods:
        if name not in known:
            raise FedsimError(f"system '{system.name}': no published method '{name}'.{did_you_mean(name, known)}")
    return [known[name] for name in system.methods]


def runs(system: System, folder: Path = _expected.SCENARIOS) -> set[str]:
    """Return the keys and strings in the tables of a system's arm, among them the names of its methods."""
    scenario = tomllib.loads((folder / f"{system.scenario}.toml").read_text(encoding="utf-8"))
    arms = scenario.pop("arms", {})
    named_axes = {
        axis: values for axis, values in arms.items() if isinstance(values, dict)
    }  # others are lists of values
    own = {f"{axis} {name}": table for axis, named in named_axes.items() for name, table in named.items()}
    chosen = [own[name] for name in own if re.search(rf"(^|, ){re.escape(name)}($|, )", system.arm)]
    return set(_words([scenario, *chosen]))


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _words(inner)
    elif isinstance(value, dict):
        yield from value
        yield from _words(list(value.values()))


def as_markdown(page: str) -> str:
    """Return a table of all systems, and a section for each.

    Args:
        page: path of the page in the repository, from which links lead.

    Raises:
        FedsimError: a scenario expects no such figure, or a method is not registered.
    """
    overview = table(_HEADS, (row for system in systems() for row in _rows(system)))
    return "\n\n".join([overview, *(_section(system, page) for system in systems())])


def _rows(system: System) -> Iterator[list[str]]:
    """Yield a row for each figure; the first row names the system."""
    link = f"[{system.name}](#{_anchor(system.name)})"
    if not system.figures:
        yield [link, "none", system.elsewhere, "", ""]
    for number, figure in enumerate(system.figures):
        yield [*([link, _measurement(system)] if number == 0 else ["", ""]), *_figure(system, figure)]


def _figure(system: System, figure: Comparison) -> list[str]:
    """Return a figure's title, its value without the system, and with it."""
    arm, control = figure.arm or system.arm, figure.control or figure.attack
    title, value = _expected.figure_cell(system.scenario, arm, figure.attack, figure.metric)
    other, baseline = figure.substitute, figure.baseline or system.baseline or arm
    if not other:
        _, other = _expected.figure_cell(system.scenario, baseline, control, figure.metric)
    title = f"{title}: {figure.attack}" if figure.attack else title
    title = f"{title}; *{figure.arm}* beside *{baseline}*" if figure.arm else title
    return escape_cells((title, other, value))


def _section(system: System, page: str) -> str:
    """Return a system's methods, claim and privacy."""
    page_path, hash_, anchor = system.page.partition("#")
    link = f"{link_path(ROOT / 'docs' / page_path, ROOT / page)}{hash_}{anchor}"
    methods = (f"`{entry.name}` ({_label(entry)} of {_papers.link(entry.paper)})" for entry in entries(system))
    claim = f"{', '.join(methods)}; [page]({link}). **Claim of the paper.** {system.claim}"
    return f"## {system.name}\n\n{claim} **For privacy.** {system.privacy}"


def _label(entry: Entry) -> str:
    """Return a method's fidelity; a data set of a benchmark has none."""
    return entry.fidelity or "tasks"


def _measurement(system: System) -> str:
    controls = dict.fromkeys(figure.control for figure in system.figures if figure.control)
    comparison = f"*{system.baseline or '*, *'.join(controls)}*"
    return f"`{system.scenario}`: *{system.arm}* beside {comparison}"


def _anchor(title: str) -> str:
    """Return the fragment of a heading, as Markdown's table of contents makes it."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return "-".join(kept.split())
