"""Both pages on a phone, a tablet and a desk, light and dark: nothing sticks out, overlaps, or bars the way."""

import shutil
from pathlib import Path
from typing import get_args

import pytest
from playwright.sync_api import Page

from fedsim.demo.lesson import Lesson
from fedsim.demo.live import LiveServer
from fedsim.demo.messages import LANGUAGES
from fedsim.demo.page import write
from fedsim.demo.victim import Protection
from tests.axe import axe_core
from tests.demo.conftest import SLIDERS, Open

WIDTHS = (375, 768, 1280)
STATES = (
    "story=1",
    "story=4",
    "story=5",
    "story=6",
    "story=7",
    SLIDERS,
    f"{SLIDERS}&predict=1&language=de",
    "story=5&language=fr",
)
LEAST_PICTURE = 80  # pixels of a screen: a digit of 28 pixels is seen at about three times its size

STICKING_OUT = """() => [...document.querySelectorAll('main *')].filter((own) => {
    const box = own.getBoundingClientRect();
    return box.width && (box.right > innerWidth + 1 || box.left < -1) && !own.closest('svg, .steps span');
}).map((own) => own.outerHTML.slice(0, 80))"""
OVERLAPPING = """() => {
    const own = [...document.querySelectorAll('h1, h2, figcaption, legend, .told p, button:not(.word)')]
        .filter((one) => one.checkVisibility() && !one.closest('.covered, [aria-hidden=true], .steps span'));
    const boxes = own.map((one) => one.getBoundingClientRect());
    const found = [];
    for (let i = 0; i < own.length; i++)
        for (let j = i + 1; j < own.length; j++) {
            const [a, b] = [boxes[i], boxes[j]];
            const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
            const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
            if (wide > 2 && high > 2 && !own[i].contains(own[j])) found.push([own[i].textContent, own[j].textContent]);
        }
    return found;
}"""
SMALL = """(least) => [...document.querySelectorAll('figure canvas')].filter((own) => own.checkVisibility()
    && !own.id.startsWith('mask') && own.getBoundingClientRect().width < least).map((own) => own.id)"""


def check(page: Page) -> None:
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(STICKING_OUT) == []
        assert page.evaluate(OVERLAPPING) == []
        assert page.evaluate(SMALL, LEAST_PICTURE) == []


def test_the_recorded_page_fits_at_every_width(browse: Open, page_file: Path) -> None:
    page = browse(f"{page_file.as_uri()}#story=1")
    page.wait_for_selector("body[data-ready]")
    for state in STATES:
        page.evaluate("(state) => { location.hash = state; }", state)
        page.wait_for_function(
            "(view) => !document.getElementById(view).hidden", arg="story" if "story" in state else "sliders"
        )
        check(page)


def test_the_sliders_with_every_defense_and_photographs_fit_a_projector(
    browse: Open, lesson: Lesson, tmp_path: Path
) -> None:
    own = lesson.sets["digits"]
    every = own.model_copy(update={"grid": own.grid.model_copy(update={"protections": get_args(Protection)})})
    write(lesson.model_copy(update={"sets": {"digits": every, "photographs": every}}), tmp_path / "demo.html")
    page = browse(f"{(tmp_path / 'demo.html').as_uri()}#{SLIDERS}")
    page.wait_for_selector("body[data-ready]")
    for language in LANGUAGES:
        page.select_option("#language", language)
        size = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        assert size <= [1024, 768]
        assert size[1] <= 768


def test_pictures_stand_in_a_line_and_two_images_leave_no_empty_boxes(browse: Open, page_file: Path) -> None:
    page = browse(f"{page_file.as_uri()}#story=2")
    page.set_viewport_size({"width": 1280, "height": 800})
    heads = page.locator(".seen figure:visible h2")
    bottoms = heads.evaluate_all("(own) => own.map((one) => Math.round(one.getBoundingClientRect().bottom))")
    assert len(bottoms) == 3
    assert len(set(bottoms)) == 1
    assert page.locator("#held").evaluate("(own) => [own.width, own.height]") == [280, 140]


def test_the_live_page_fits_at_every_width(live_page: Page) -> None:
    check(live_page)


@pytest.mark.slow
def test_there_is_no_barrier(browse: Open, page_file: Path, live_server: LiveServer, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("no npm")
    axe = axe_core(tmp_path)
    addresses = [
        *(f"{page_file.as_uri()}#{state}" for state in STATES),
        live_server.url,
        f"{live_server.url}words.html",
    ]
    for address in addresses:
        for scheme in ("light", "dark"):
            page = browse(address)
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": 375, "height": 800})
            page.evaluate("document.querySelectorAll('details').forEach((own) => { own.open = true; })")
            page.evaluate(axe)
            found = page.evaluate(
                "axe.run().then((done) => done.violations.map((v) => [v.impact, v.id, v.nodes[0].html]))"
            )
            assert found == [], address
            page.close()


@pytest.mark.slow
def test_there_is_no_barrier_in_the_quiz(browse: Open, page_file: Path, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("no npm")
    page = browse(page_file.as_uri())
    page.wait_for_selector("body[data-ready]")
    page.locator("[data-quiz]").first.click()
    page.evaluate(axe_core(tmp_path))
    found = page.evaluate("axe.run().then((done) => done.violations.map((v) => [v.impact, v.id, v.nodes[0].html]))")
    assert found == []
