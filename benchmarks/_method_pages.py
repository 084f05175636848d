"""Pages of methods for the site: docstring, tier, fidelity, settings, steps of the paper, measured figures, links."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache

from benchmarks import _figures, _papers
from benchmarks._markdown import link_path, table
from benchmarks._results import ROOT, Result, results
from benchmarks._rows import Row
from fedsim.cli.pages import Page, page_of
from fedsim.core.registry.index import entries_of
from fedsim.core.registry.method import KINDS, TIERED, Entry

FOLDER = "methods"
_DOCS = ROOT / "docs"
_HEADING = re.compile(r"([A-Z][a-z]+): (.*)", re.DOTALL)
_MOST_ROWS = 12  # of an experiment, on a method's page
_FENCE = re.compile(r"^( *```.*?^ *```)$", re.DOTALL | re.MULTILINE)
_WORD = re.compile(r"[a-z]{2}")
_ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
_SPECIAL = re.compile(r"[\\*_<\[\]]")
_CODE = re.compile(r"(?<!\[)`([a-z0-9-]+)`(?!\])")


def path_of(entry: Entry) -> str:
    """Return the path of a method's page in the site's sources."""
    return f"{FOLDER}/{entry.kind}/{entry.name}.md"


def pages() -> Iterator[tuple[str, str]]:
    """Yield the path and the Markdown of each method's page."""
    for kind in KINDS:
        for _, entry in sorted(entries_of(kind).items()):
            yield path_of(entry), as_markdown(entry, page_of(entry))


def listing(page: str) -> str:
    """Return Markdown for a page of the site: a table of the methods of each kind, with links to their pages."""
    parts = ["# Every method", "Each page is made from the method's docstring, its settings and its measurements."]
    for kind in KINDS:
        rows = (
            (
                f"[{name}]({link_path(path_of(entry), page)})",
                _tier(entry),
                _escape_markdown(entry.summary),
                _escape_markdown(entry.origin),
            )
            for name, entry in sorted(entries_of(kind).items())
        )
        parts.append(f"## {kind}\n\n{table(('name', 'tier', 'summary', 'paper'), rows)}")
    return "\n\n".join(parts)


def as_markdown(entry: Entry, page: Page) -> str:
    """Return a method's page."""
    parts = [
        f"# {entry.name}",
        *_docstring_paragraphs(page.doc),
        _facts(entry, page),
        _settings(page.settings),
        _steps(entry),
        *_measured_rows(entry.name),
        _links(entry),
        _example(page.example),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def with_links(markdown: str, page: str) -> str:
    """Return a handwritten page with links from the names of methods to their pages.

    A name is linked if it is the name of an attack on updates or has a hyphen, and in the first cell of a table's row.
    Others, such as `mean`, are also values of settings.
    """
    parts = _FENCE.split(markdown)
    for index in range(0, len(parts), 2):
        lines = parts[index].split("\n")
        parts[index] = "\n".join(line if line.startswith("#") else _line(line, page) for line in lines)
    return "".join(parts)


def _line(line: str, page: str) -> str:
    first, border, others = line.partition(" | ") if line.startswith("|") else ("", "", line)
    first = _CODE.sub(lambda name: _link_method(name[1], page), first)
    return first + border + _CODE.sub(lambda name: _link_method(name[1], page, is_value="-" not in name[1]), others)


def _link_method(name: str, page: str, *, is_value: bool = False) -> str:
    entry = _methods_by_name().get(name)
    if entry is None or (is_value and not _attacks_updates(entry)):
        return f"`{name}`"
    return f"[`{name}`]({link_path(path_of(entry), page)})"


def _attacks_updates(entry: Entry) -> bool:
    """Return whether a method is an attack outside of the folders of questions."""
    return entry.kind == "attack" and entry.module.split(".")[1] not in entries_of("question")


@cache
def _methods_by_name() -> Mapping[str, Entry]:
    """Return the methods whose name or alias no other method has."""
    entries = [(name, entry) for kind in KINDS for entry in entries_of(kind).values() for name in entry.names]
    counts = [name for name, _ in entries]
    return {name: entry for name, entry in entries if counts.count(name) == 1}


def _docstring_paragraphs(doc: str) -> Iterator[str]:
    """Yield the paragraphs of a docstring; headings are bold, and equations are code."""
    first, *others = re.split(r"\n(?=[A-Z][a-z]+: )|\n\s*\n", doc.strip())
    yield _sentence(first.partition(": ")[2] or first)
    for part in others:
        heading = _HEADING.match(part.strip())
        if heading is None:
            yield _sentence(part)
        elif heading[1] == "Equation":
            yield f"**Equation.**\n\n```text\n{heading[2]}\n```"
        else:
            yield f"**{heading[1]}.** {_sentence(heading[2])}"


def _sentence(text: str) -> str:
    line = " ".join(text.split())
    return _escape_markdown(line[0].upper() + line[1:] if _WORD.match(line) else line)


def _escape_markdown(text: str) -> str:
    """Return text for Markdown: no emphasis and no HTML outside of code, and arXiv ids as links."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [
        _ARXIV.sub(r"[\g<0>](https://arxiv.org/abs/\1)", _SPECIAL.sub(r"\\\g<0>", part)) for part in parts[::2]
    ]
    return "".join(parts).replace("|", "&#124;")


def _facts(entry: Entry, page: Page) -> str:
    facts = {
        "Kind": f"{entry.kind}, hook {entry.hook}" if entry.hook else entry.kind,
        "Tier": _tier(entry),
        "Also called": ", ".join(f"`{alias}`" for alias in entry.aliases),
        "Paper": entry.origin,
        "Related paper, of other authors": entry.related,
        "Needs the threat model to grant": ", ".join(page.grants),
        "Needs the extra": f"`pip install 'fedsim-privacy[{entry.extra}]'`" if entry.extra else "",
        "Code": f"`{entry.module}`",
    }
    return "\n".join(f"- **{name}**: {_escape_markdown(text)}" for name, text in facts.items() if text)


def _tier(entry: Entry) -> str:
    return entry.tier if entry.kind in TIERED else ""


def _settings(rows: Sequence[Sequence[str]]) -> str:
    return _table("Settings", ("setting", "default", "expected", "meaning"), ([f"`{n}`", *rest] for n, *rest in rows))


def _steps(entry: Entry) -> str:
    steps = ((step, *_papers.quote_places(entry, step, code)) for step, code in entry.paper_steps)
    return _table("Steps of the paper", ("step", "code", "oracle"), steps)


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [list(map(_escape_markdown, row)) for row in rows]
    return f"## {title}\n\n{table(heads, cells)}" if cells else ""


def _measured_rows(name: str) -> Iterator[str]:
    """Yield the rows of each experiment that measured a method by its name."""
    found = [(result, rows) for result in _results() if (rows := list(_rows_of(result, name)))]
    if found:
        yield "## Measured"
    for result, rows in found:
        yield _figures.as_table(rows[:_MOST_ROWS])
        left = len(rows) - _MOST_ROWS
        yield f"{_figures.caption(result)}{f' {left} further rows: the page of the experiment.' if left > 0 else ''}"


def _rows_of(result: Result, name: str) -> Iterator[Row]:
    for cell, rows in result.cells.items():
        for row in rows:
            if name in {cell, row.name, *re.split(r"[,;:] ?", row.setting), *re.split(r"[,;:] ?", row.name)}:
                yield row


@cache
def _results() -> tuple[Result, ...]:
    return tuple(results().values())


def _links(entry: Entry) -> str:
    """Return links to the handwritten pages that name a method, and the scenarios that run it."""
    here = path_of(entry)
    links = [
        f"[{title}]({link_path(page, here)})"
        for page, (title, text) in _handwritten().items()
        if f"`{entry.name}`" in text or f"[{entry.name}]" in text
    ]
    scenarios = [f"`{file}`" for file, text in _scenarios().items() if f'"{entry.name}"' in text]
    lines = {"Pages that name it": links, "Scenarios that run it": scenarios}
    return "\n".join(f"- **{name}**: {', '.join(items)}" for name, items in lines.items() if items)


@cache
def _handwritten() -> Mapping[str, tuple[str, str]]:
    files = {file.relative_to(_DOCS).as_posix(): file for file in sorted(_DOCS.rglob("*.md"))}
    texts = {page: file.read_text(encoding="utf-8") for page, file in files.items()}
    return {page: (text.partition("\n")[0].removeprefix("# "), text) for page, text in texts.items()}


@cache
def _scenarios() -> Mapping[str, str]:
    files = sorted((ROOT / "scenarios").glob("*.toml"))
    return {f"scenarios/{file.name}": file.read_text(encoding="utf-8") for file in files}


def _example(example: str) -> str:
    return f"## A small scenario in which it applies\n\n```toml\n{example.strip()}\n```" if example else ""
