"""Pages that `make docs` generates: the front page, the reference, and a page for every method."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from benchmarks import _figures, _method_pages
from fedsim.scenario import Scenario

ROOT = Path(__file__).parent.parent
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
DOCS = Path(__file__).parent
RECORDED, IN_SITE = ROOT / "results" / "demo.html", "recorded-demo.html"
METHODS = "reference/methods.md"
NAVIGATION: dict[str, tuple[str, ...]] = {
    "Start": ("index.md", "tutorial.md", "notebooks.md", "demo.md", "teaching.md", "glossary.md"),
    "How to": ("audit.md", "release.md", "python.md", "sweeps.md", "federation.md", "guard.md", "generation.md", "."),
    "Attacks": ("attacks",),
    "Defenses": ("defenses",),
    "Components": ("components",),
    "Findings": (
        "realism.md",
        "attacks/dropout-inversion.md",
        "attacks/exact.md",
        "attacks/exact-frontier.md",
        "attacks/membership.md",
        "attacks/attributes.md",
        "attacks/sources.md",
        "speakers.md",
        "attacks/memorisation.md",
        "benchmarks",
    ),
    "Reference": (
        "scenarios.md",
        "fidelity.md",
        "systems.md",
        "reference/scenario.md",
        METHODS,
        "reference/python.md",
    ),
    "Develop": (
        "contributing.md",
        "writing-an-attack.md",
        "writing-a-question.md",
        "adding-a-task.md",
        "design.md",
        "decisions.md",
        "isolation.md",
        "testing.md",
        "releasing.md",
        "changelog.md",
    ),
}
_SHIM = "https://unpkg.com/iframe-worker/shim"
_TARGET = re.compile(r"(\]\()([^)\s#]+)([)#])")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the sections of the navigation that hold a page a method."""
    config.nav = _navigation()
    return config


def _navigation() -> list[dict[str, list[str]]]:
    """Return the sections: a folder lists its front page, if any, and the pages that no section names."""
    named = {page for pages in NAVIGATION.values() for page in pages}
    return [{title: list(_pages(pages, named))} for title, pages in NAVIGATION.items()]


def _pages(pages: tuple[str, ...], named: set[str]) -> Iterator[str]:
    for page in pages:
        if page.endswith(".md"):
            yield page
            continue
        own = sorted(file.relative_to(DOCS).as_posix() for file in (DOCS / page).glob("*.md"))
        own.sort(key=lambda other: not other.endswith("README.md"))
        yield from (other for other in own if other not in named)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add pages from the repository's root, and pages generated from docstrings."""
    for name, source in PAGES.items():
        text = _figures.render_page((ROOT / source).read_text(encoding="utf-8"), source)
        files.append(File.generated(config, name, content=_TARGET.sub(_from_root, text)))
    files.append(File.generated(config, "reference/scenario.md", content="\n".join(_scenario())))
    files.append(File.generated(config, METHODS, content=_method_pages.listing(METHODS)))
    for name, text in _method_pages.pages():
        files.append(File.generated(config, name, content=text))
    if RECORDED.exists():
        files.append(File.generated(config, IN_SITE, content=RECORDED.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to pages of the repository's root lead to their copies; link methods and the recorded demo.

    Tables of results are rendered again: they name code that has changed since.
    """
    here = page.file.src_uri
    if here == "demo.md" and RECORDED.exists():
        markdown = markdown.replace("\n\n", f"\n\n[Open a recorded page]({IN_SITE}).\n\n", 1)
    if here in PAGES or here == METHODS or here.startswith(f"{_method_pages.FOLDER}/"):
        return markdown
    markdown = _figures.render_page(markdown, f"docs/{here}")
    for name, source in PAGES.items():
        markdown = re.sub(rf"\]\(((?:\.\./)+){source}", lambda up, name=name: f"]({up[1][3:]}{name}", markdown)
    return _method_pages.with_links(markdown, here)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Load the files of an offline search from the site itself."""
    return output.replace(_SHIM, f"{'../' * page.file.dest_uri.count('/')}worker.js")


def on_post_template(output_content: str, **_: Any) -> str:
    """Do the same for pages without a source file."""
    return output_content.replace(_SHIM, "/worker.js")


def _from_root(link: re.Match[str]) -> str:
    target = link[2].removeprefix("docs/")
    copies = {source: name for name, source in PAGES.items()}
    return f"{link[1]}{copies.get(target, target)}{link[3]}"


def _scenario() -> Iterator[str]:
    """Yield the reference of scenario files: every table and key, as the schema declares them."""
    schema = Scenario.model_json_schema()
    yield "# Keys of a scenario\n\nMade from the classes that read a scenario. [Scenarios](../scenarios.md) explains.\n"
    yield from _keys("The file itself", schema)
    for name, table in sorted(schema["$defs"].items()):
        if table.get("properties"):
            yield from _keys(name, table)


def _keys(title: str, table: dict[str, Any]) -> Iterator[str]:
    yield f"## {title}\n\n{_line(table.get('description', ''))}\n"
    yield "| key | value | default | meaning |\n|---|---|---|---|"
    for key, own in table.get("properties", {}).items():
        default = "" if "default" not in own else f"`{own['default']}`"
        yield f"| `{key}` | {_kind(own)} | {default.replace('|', '/')} | {_line(own.get('description', ''))} |"
    yield ""


def _kind(own: dict[str, Any]) -> str:
    if "$ref" in own:
        return own["$ref"].rpartition("/")[2]
    if "enum" in own:
        return ", ".join(f"`{value}`" for value in own["enum"])
    if "anyOf" in own:
        return " or ".join(_kind(part) for part in own["anyOf"])
    if own.get("type") == "array":
        return f"list of {_kind(own.get('items', {}))}"
    bounds = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    told = ", ".join(f"{words} {own[name]}" for name, words in bounds.items() if name in own)
    return f"{own.get('type', 'anything')}{f', {told}' if told else ''}"


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")
