"""Pages of runs, sweeps, audits and release checks in a browser."""

import shutil

import numpy as np
import pytest

from fedsim.audit import page as audit_page
from fedsim.audit import sheet
from fedsim.judgement.policy import Policy
from fedsim.release import page as release_page
from fedsim.report import sweep as sweep_report
from fedsim.report.document.html import to_html
from fedsim.report.writing import build
from tests.audit.findings import attacked, defended, exposure, guarantee, membership, of_victims, secrets
from tests.audit.findings import record as audit_record
from tests.axe import axe_core
from tests.release import records as release_records

WIDTHS = (375, 768, 1280)


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The source of axe-core, from the package registry of the machine."""
    if shutil.which("npm") is None:
        pytest.skip("no npm")
    return axe_core(tmp_path_factory.mktemp("axe"))


@pytest.fixture
def page(chromium):
    page = chromium.new_page()
    yield page
    page.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory, records, sweeps):
    record, arrays = records.with_arrays(records.typical())
    run = records.save(tmp_path_factory.mktemp("run"), record, arrays)
    folder = sweeps.save(tmp_path_factory.mktemp("sweep") / "s", records, sweeps.typical(records))
    audit, leaks = audited(), release_records.figure(0.6, 0.7, 0.8, 0.01)
    finished = release_records.record(leaks, max_membership_tpr=0.1)
    pictures = {f"b/1/{kind}": np.full((1, 1, 4, 4), 0.5) for kind in ("guesses", "originals", "known")}
    documents = {
        "release": release_page.build(finished),
        "audit": audit_page.build(audit, pictures),
        "evidence": sheet.build(audit),
    }
    others = tmp_path_factory.mktemp("others")
    for name, document in documents.items():
        (others / f"{name}.html").write_text(to_html(document), encoding="utf-8")
    return [build(run), sweep_report.build(folder), *sorted(others.iterdir())]


def audited():
    """Return an audit with all that its page shows, pictures of one update among it."""
    victims = [one.model_copy(update={"arrays": "b/1"}) for one in attacked(1, of=1).victims]
    policy = Policy(max_recovered=0.1, max_epsilon=8.0, findings={"exposure": 3.0})
    tried = (defended("gradient-noise", 0, 0.01), defended("clipping", 30, 0.0))
    findings = (membership(0.2), *exposure())
    client = (of_victims(victims),)
    return audit_record(
        policy, client=client, tried=tried, findings=findings, items=secrets(), guarantees=(guarantee(9.0),)
    )


@pytest.mark.slow
def test_pages_fit_phones_are_legible_in_the_dark_and_have_no_barrier(axe, pages, page):
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    for path in pages:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.goto(path.as_uri())
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 800})
                assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.evaluate("document.querySelectorAll('details').forEach((own) => { own.open = true; })")
            page.evaluate(axe)
            barriers = "axe.run().then((done) => done.violations.map((v) => [v.id, v.nodes.map((n) => n.html)]))"
            assert page.evaluate(barriers) == []
            assert said == []


@pytest.mark.slow
def test_tables_fit_a_desk_and_paper_and_intervals_are_small_on_it(pages, page):
    cut = (
        "(nodes) => nodes.filter((one) => one.scrollWidth > one.parentElement.clientWidth).map((one) => one.className)"
    )
    sizes = "(nodes) => nodes.map((one) => parseFloat(getComputedStyle(one).fontSize))"
    for path in pages:
        for is_paper, width in ((False, 1280), (True, 680)):  # 18 cm, an A4 page without its margins
            page.set_viewport_size({"width": width, "height": 800})
            page.emulate_media(media="print" if is_paper else "screen")
            page.goto(path.as_uri())
            page.evaluate("document.querySelectorAll('details').forEach((own) => { own.open = true; })")
            assert page.locator("table").evaluate_all(cut) == []
            small = page.locator(".number small").evaluate_all(sizes)
            assert not is_paper or all(size < 10 for size in small)  # figures have 8 pt, 10.7 pixels


@pytest.mark.slow
def test_tables_are_sorted_within_their_groups_pictures_grow_and_links_open_folds(pages, page):
    page.goto(pages[0].as_uri())
    body = page.locator("table.sortable tbody.arm").first
    names = "own => [...own.rows].map((row) => row.cells[0].firstChild.textContent)"
    before = body.evaluate(names)
    page.locator("table.sortable thead button").first.click()
    assert body.evaluate(names)[1:] == sorted(before[1:], key=str.lower)
    assert body.evaluate(names)[0] == before[0]
    page.locator(".wall img").first.click()
    assert page.locator("dialog[open] img").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("#diagnosis").evaluate("own => own.closest('details').open") is False
    page.goto(f"{pages[0].as_uri()}#diagnosis")
    page.wait_for_function("document.getElementById('diagnosis').closest('details').open")
