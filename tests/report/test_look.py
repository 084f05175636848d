"""Pages share a style, a script and a table of contents, and let the browser load nothing else."""

import base64
import hashlib
import re

from fedsim.report.look import render


def test_contents_lead_to_every_section_with_its_title_escaped(tmp_path, monkeypatch):
    package = tmp_path / "pages"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "page.j2").write_text(
        '<meta content="{{ policy }}"><!-- contents --><h2 id="a">{{ title }}</h2><h2 id="b">B</h2>'
        "<style>{{ style }}</style><script>{{ script }}</script>",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    page = render("pages", "page.j2", title="<b>& one</b>")
    assert re.findall(r'<a href="#(\w)">(.*?)</a>', page) == [("a", "&lt;b&gt;&amp; one&lt;/b&gt;"), ("b", "B")]
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page
