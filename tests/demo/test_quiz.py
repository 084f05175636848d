"""The quiz: no blank picture, and no answer that stands on the screen."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from fedsim.demo.lesson import FULL, LEAST_CONTRAST, PHOTOGRAPHS, Lesson, QuizCase, installed_grids, question_of
from fedsim.demo.page import write
from fedsim.demo.recording import recording_of, scene_of
from tests.demo.conftest import SLIDERS, Open

VISIBLE = "(id) => document.getElementById(id).checkVisibility()"
SPREAD = """(() => {
    const c = document.getElementById('quiz-picture'), copy = document.createElement('canvas');
    [copy.width, copy.height] = [c.width, c.height];
    const pen = copy.getContext('2d', { willReadFrequently: true });
    pen.drawImage(c, 0, 0);
    const greys = [...pen.getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 0);
    return Math.max(...greys) - Math.min(...greys);
})()"""
COVERED = """(() => {
    const behind = getComputedStyle(document.getElementById('quiz-box'), '::backdrop').backgroundColor;
    return document.querySelector('dialog:modal') !== null && /^rgb\\(/.test(behind);
})()"""


@pytest.fixture
def page(browse: Open, page_file: Path) -> Page:
    opened = browse(f"{page_file.as_uri()}#{SLIDERS}")
    expect(opened.locator("body")).to_have_attribute("data-ready", "yes")
    return opened


def greys(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("L")) / 255


def test_no_question_is_blank_or_shown_elsewhere(lesson: Lesson) -> None:
    assert len(lesson.quiz) == 3
    shown = np.split(greys(lesson.sets["digits"].originals), len(lesson.sets["digits"].labels), axis=1)
    for question in lesson.quiz:
        assert np.ptp(greys(question.guess)) >= LEAST_CONTRAST - 1 / 15  # rounded to sixteen greys
        truth = greys(question.truth)
        assert np.ptp(truth) > 0.9
        assert min(np.abs(truth - own).max() for own in shown) > 0.1


def test_every_question_is_asked_once_and_says_nothing_before_the_answer(page: Page, lesson: Lesson) -> None:
    page.locator("[data-quiz]").first.click()
    seen = set()
    for asked in range(len(lesson.quiz)):
        question = page.evaluate("question()")
        box = page.locator("#quiz-box")
        seen.add(page.evaluate("document.getElementById('quiz-picture').toDataURL()"))
        assert page.evaluate(SPREAD) >= 255 * (LEAST_CONTRAST - 1 / 15)
        assert not page.evaluate(VISIBLE, "quiz-original")
        assert page.evaluate(COVERED)  # a modal dialog and its opaque backdrop hide the page behind
        told = (box.text_content() or "").replace("0123456789", "")
        assert question["attack"] not in told
        assert "dB" not in told
        right = asked % 2 == 0
        digit = question["label"] if right else str((int(question["label"]) + 1) % 10)
        page.locator("#quiz-answers button", has_text=digit).click()
        expect(page.locator("#quiz-verdict")).to_contain_text(
            f"{'Right' if right else 'No'}, it was {question['label']}"
        )
        expect(page.locator("#quiz-verdict")).to_contain_text(question["attack"])
        expect(page.locator("#quiz-original")).to_be_visible()
        expect(page.locator("#quiz-text")).to_have_text(f"{asked // 2 + 1} of {asked + 1} right.")
        assert page.locator("#quiz-answers button:enabled").count() == 0
        page.click("#quiz-next")
        expect(page.locator("#quiz-verdict")).to_have_text("")
    assert len(seen) == len(lesson.quiz)
    page.click("#quiz-close")
    expect(page.locator("#quiz-box")).to_be_hidden()


def test_a_photograph_has_names_to_choose_from(browse: Open, lesson: Lesson, tmp_path: Path) -> None:
    if PHOTOGRAPHS not in installed_grids(FULL):
        pytest.skip("foolbox is not installed")
    grid = PHOTOGRAPHS.model_copy(
        update={"rates": (0.5,), "batches": (1,), "protections": ("none",), "attackers": ("exact",), "frames": (1,)}
    )
    recording = recording_of(grid, [scene_of(setting, grid) for setting in grid.settings()])
    asked = question_of(0, QuizCase("exact", "none", 1.0, 0.5, "photographs"), 1)
    sets = {**lesson.sets, "photographs": recording}
    write(lesson.model_copy(update={"sets": sets, "quiz": (asked,)}), tmp_path / "demo.html")
    page = browse(f"{(tmp_path / 'demo.html').as_uri()}#{SLIDERS}&language=de")
    expect(page.locator("body")).to_have_attribute("data-ready", "yes")
    page.locator("[data-quiz]").first.click()
    expect(page.locator("#quiz-title")).to_have_text("Was zeigt das Foto des Clients?")
    assert page.locator("#quiz-answers button").all_text_contents() == list(asked.answers)
    page.locator("#quiz-answers button", has_text=asked.label).click()
    expect(page.locator("#quiz-verdict")).to_contain_text(f"Richtig, es war {asked.label}")
    expect(page.locator("#quiz-whose")).to_have_text("Das Foto des Clients")


def test_a_lesson_without_questions_offers_none(browse: Open, lesson: Lesson, tmp_path: Path) -> None:
    write(lesson.model_copy(update={"quiz": ()}), tmp_path / "demo.html")
    page = browse((tmp_path / "demo.html").as_uri())
    expect(page.locator("body")).to_have_attribute("data-ready", "yes")
    assert page.locator("[data-quiz]:visible").count() == 0
