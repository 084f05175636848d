"""HTML renderer: a single page with embedded style, script and pictures."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.core.sanitize import printable, slug
from fedsim.report.document import Document, Section

if TYPE_CHECKING:
    from jinja2 import Template

_HERE = Path(__file__).parent


def to_html(document: Document) -> str:
    """Return a document as an HTML page. It runs only its own script, and all text is escaped."""
    from markupsafe import Markup  # noqa: PLC0415 - as below

    script = (_HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _template().render(
        document=document,
        place=_place,
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        policy=Markup(f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"),
    )
    return printable(page)


@cache
def _template() -> Template:
    """Return the compiled page template; cached, because compiling it is as slow as the rest of a report."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - keeps the import cheap

    environment = Environment(
        loader=PackageLoader("fedsim.report.document", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["of"] = lambda value, name: type(value).__name__ == name
    return environment.get_template("page.html.j2")


def _place(section: Section) -> str:
    """Return the anchor of a section."""
    return section.place or slug(section.title)
