"""What every page of results shares: style, script, and a table of contents."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from fedsim import document
from fedsim.core.plain import slug

_SHARED = Path(document.__file__).parent
_HEADING = re.compile(r'<h2 id="([^"]+)">(.*?)</h2>')
_BARE = re.compile(r"<h2>(.*?)</h2>")
_PLACE = "<!-- contents -->"


def render(package: str, template: str, **parts: Any) -> str:
    """Return a page made of a template of a package; it may include the style and the script of all pages.

    The template gets `style`, `script` and a `policy` that lets the page load nothing and run that script alone, and
    has a comment ``contents`` where its table of contents goes. Sections without an id get one from their title.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - keeps the import cheap
    from markupsafe import Markup  # noqa: PLC0415

    script = (_SHARED / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("fedsim.report", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(
        style=Markup((_SHARED / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        policy=Markup(f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"),
        **parts,
    )
    named = _BARE.sub(lambda found: f'<h2 id="{slug(found[1])}">{found[1]}</h2>', page)
    return named.replace(_PLACE, _contents(named), 1)


def _contents(page: str) -> str:
    """Return links to the sections of a page, whose titles are escaped already."""
    links = "".join(f'<li><a href="#{place}">{title}</a></li>\n' for place, title in _HEADING.findall(page))
    inner = f"<summary>Contents</summary><ul>\n{links}</ul>"
    return f'<nav class="toc" aria-label="Contents"><details>{inner}</details></nav>'
