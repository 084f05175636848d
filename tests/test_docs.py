"""The site holds every page of the documentation, and links from it lead somewhere."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent
pytest.importorskip("mkdocs")


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("pages_of_the_site", ROOT / "docs" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_stands_in_the_navigation_once(pages) -> None:
    listed = [page for section in pages._navigation() for own in section.values() for page in own]
    made = {*pages.PAGES, "reference/scenario.md", "reference/methods.md"}
    own = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert len(listed) == len(set(listed))
    assert set(listed) == own | made


def test_the_reference_has_every_key(pages) -> None:
    keys = "\n".join(pages._scenario())
    for word in ("`threat`", "## Scoring", "`threshold`", "`identified`"):
        assert word in keys


def test_names_of_methods_lead_to_their_pages_but_not_on_generated_pages(pages) -> None:
    def shown(path: str) -> str:
        return pages.on_page_markdown(
            "`spear` [up](../CONTRIBUTING.md)", SimpleNamespace(file=SimpleNamespace(src_uri=path))
        )

    assert shown("attacks/exact.md") == "[`spear`](../methods/attack/spear.md) [up](contributing.md)"
    assert shown("methods/attack/dager.md") == shown(pages.METHODS) == "`spear` [up](../CONTRIBUTING.md)"


def test_links_of_the_front_page_lead_to_pages_of_the_site(pages) -> None:
    text = pages._TARGET.sub(pages._from_root, "[a](docs/audit.md#x) [b](CONTRIBUTING.md) [c](https://example.org)")
    assert text == "[a](audit.md#x) [b](contributing.md) [c](https://example.org)"


def test_the_site_carries_a_recorded_page_of_the_demo_and_a_link_to_it(pages, tmp_path, monkeypatch) -> None:
    from mkdocs.config import load_config
    from mkdocs.structure.files import File, Files

    recorded = tmp_path / "demo-page.html"
    monkeypatch.setattr(pages, "RECORDED", recorded)
    page = type("Page", (), {"file": File("demo.md", str(tmp_path), str(tmp_path), use_directory_urls=False)})
    text = (ROOT / "docs" / "demo.md").read_text(encoding="utf-8")
    assert pages.IN_SITE not in pages.on_page_markdown(text, page)
    recorded.write_text("<!doctype html>")
    assert pages.on_page_markdown(text, page).count(f"[Open a recorded page]({pages.IN_SITE}).") == 1
    monkeypatch.setattr(pages, "_scenario", list)
    monkeypatch.setattr(pages._method_pages, "pages", lambda: [("methods/attack/spear.md", "# spear")])
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"))
    config.plugins._current_plugin = "pages"
    files = pages.on_files(Files([]), config)
    assert files.get_file_from_path(pages.IN_SITE).content_string == "<!doctype html>"
    assert files.get_file_from_path("methods/attack/spear.md").content_string == "# spear"
    assert "[spear](../methods/attack/spear.md)" in files.get_file_from_path(pages.METHODS).content_string
