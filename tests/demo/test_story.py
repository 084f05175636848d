"""The story: its seven steps, what the page computes itself, and the words that it explains."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect
from torch import Tensor, nn

from fedsim.core.glossary import TERMS
from fedsim.demo.lesson import Lesson
from fedsim.demo.messages import LANGUAGES, messages
from fedsim.reconstruction import reconstruct
from tests.demo.conftest import Open

ROUNDING = 1e-6  # of numbers near one that travel with 32 bits, after sums of hundreds of them

COMPUTE = """({ images, labels, rate, unit }) => {
    const masks = makeMasks(3, images.length, rate), own = makeNetwork(8);
    const gradient = gradientOf(own, images, labels, masks, rate), listed = (tensors) =>
        Object.fromEntries(Object.entries(tensors).map(([name, values]) => [name, Array.from(values)]));
    return { network: listed(own), gradient: listed(gradient), masks: masks.map((mask) => Array.from(mask)),
        unit: solveUnit(gradient, unit), all: solveAll(gradient), norm: normOf(clipped(gradient, 0.1)),
        separated: separated(gradient).map((group) => group.pixels) };
}"""


class Masked(nn.Module):
    """Dropout with given masks."""

    def __init__(self, masks: Tensor, rate: float) -> None:
        super().__init__()
        self.masks, self.rate = masks, rate

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.masks / (1 - self.rate)


@pytest.fixture
def page(browse: Open, page_file: Path) -> Page:
    opened = browse(page_file.as_uri())
    expect(opened.locator("body")).to_have_attribute("data-ready", "yes")
    return opened


def computed(
    page: Page, images: Tensor, labels: list[int], rate: float
) -> tuple[dict[str, Any], nn.Module, list[Tensor]]:
    """Let the page compute, and build the same model and the same gradients with torch."""
    told = page.evaluate(COMPUTE, {"images": images.tolist(), "labels": labels, "rate": rate, "unit": 0})
    dropout = Masked(torch.tensor(told["masks"]), rate) if rate else nn.Identity()
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.Sigmoid(), dropout, nn.Linear(128, 10))
    for parameter, values in zip(model.parameters(), told["network"].values(), strict=True):
        parameter.data = torch.tensor(values).reshape(parameter.shape)
    own = torch.autograd.grad(
        nn.functional.cross_entropy(model(images.reshape(-1, 1, 28, 28)), torch.tensor(labels)),
        list(model.parameters()),
    )
    given = [torch.tensor(v).reshape(o.shape) for v, o in zip(told["gradient"].values(), own, strict=True)]
    torch.testing.assert_close(given, list(own), atol=ROUNDING, rtol=1e-4)
    return told, model, given


def drawn(count: int) -> Tensor:
    return torch.rand((count, 784), generator=torch.Generator().manual_seed(4))


def test_the_page_solves_a_gradient_as_the_attack_of_the_package_does(page: Page) -> None:
    images = drawn(1)
    told, model, gradients = computed(page, images, [3], 0.0)
    found = reconstruct(model, nn.functional.cross_entropy, gradients, shape=(1, 28, 28), classes=10,
                        labels=torch.tensor([3]), attack="closed-form-linear")  # fmt: skip
    theirs = found.inputs.flatten()
    for pixels in (torch.tensor(told["all"]), torch.tensor(told["unit"])):
        torch.testing.assert_close(pixels, theirs, atol=ROUNDING, rtol=0)
        torch.testing.assert_close(pixels, images[0], atol=ROUNDING, rtol=0)
    assert told["norm"] == pytest.approx(0.1)


def test_dropout_separates_a_batch_and_without_it_nothing_is_separated(page: Page) -> None:
    images = drawn(4)
    assert computed(page, images, [1, 2, 3, 4], 0.0)[0]["separated"] == []
    found = computed(page, images, [1, 2, 3, 4], 0.5)[0]["separated"]
    assert len(found) == 4
    gaps = torch.cdist(torch.tensor(found), images, p=torch.inf).amin(0)
    assert gaps.max() < 1e-4  # a gradient of 32 bits, divided by a small one


def test_a_drawing_is_found_in_the_gradient_of_a_neuron(page: Page) -> None:
    expect(page.locator("#story-title")).to_have_text(messages("en")["story.1.title"])
    before = page.evaluate("document.getElementById('ratio').toDataURL()")
    box = page.locator("#pad").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + 160, steps=6)
    page.mouse.up()
    page.wait_for_function("before => document.getElementById('ratio').toDataURL() !== before", arg=before)
    gap = re.search(r"drawing: (\d+e[+-]\d+) of 1", page.locator("#ratio-text").text_content() or "")
    assert float(gap[1]) < ROUNDING
    page.click("#pad-clear")
    expect(page.locator("#ratio-text")).to_have_text(messages("en")["lab.empty"])
    page.click("#pad-sample")
    expect(page.locator("#ratio-text")).to_contain_text("Largest difference")


def test_seven_steps_each_show_something_and_no_key_of_a_message(page: Page) -> None:
    titles = []
    for step in range(1, 8):
        expect(page.locator("#story [aria-current=step] b")).to_have_text(str(step))
        expect(page).to_have_url(re.compile(f"#story={step}$"))
        titles.append(page.locator("#story-title").text_content())
        captions = page.locator("#story-seen figcaption:visible").all_text_contents()
        assert all(captions), step
        assert captions or page.locator("#story table:visible, [data-challenge]:visible").count(), step
        text = page.locator("#story").text_content() or ""
        assert not [key for key in messages("en") if "." in key and key in text]
        if step < 7:
            page.click("#story-forward")
    assert len(set(titles)) == 7
    expect(page.locator("#story-forward")).to_be_disabled()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#table-body tr").first).to_contain_text("1 of 1")


def test_sliders_of_the_story_change_what_is_found(page: Page) -> None:
    page.evaluate("location.hash = 'story=4'")
    expect(page.locator("#found-text")).to_contain_text("2 of 2 images found")
    page.locator("#share").fill("0")
    expect(page.locator("#found-text")).to_contain_text("0 of 2 images found, by 0 of 128")
    page.click("[data-step='5']")
    expect(page.locator("#average-text")).to_contain_text("160.0 dB")
    page.check("#clip")
    expect(page.locator("#average-text")).to_contain_text("dB from your drawing. Norm of the gradient: 0.10.")
    page.locator("#level").fill("7")
    expect(page.locator("#average-text")).not_to_contain_text("160.0 dB")


def test_a_challenge_opens_its_sliders(page: Page) -> None:
    page.click("[data-step='7']")
    page.click("[data-challenge='2']")
    expect(page.locator("#sliders")).to_be_visible()
    expect(page.locator("[value=exact]")).to_be_checked()
    page.click("[data-view=story]")
    expect(page.locator("#story-title")).to_have_text(messages("en")["story.7.title"])


def test_a_word_is_explained_on_touch_from_the_glossary(page: Page) -> None:
    word = page.locator("#story-text .word").first
    word.click()
    expect(page.locator("#word-box")).to_have_text(TERMS["gradient"])
    expect(word).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Escape")
    expect(page.locator("#word-box")).to_be_hidden()
    word.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#word-box")).to_be_visible()
    page.mouse.click(5, 700)
    expect(page.locator("#word-box")).to_be_hidden()


@pytest.mark.parametrize("language", [own for own in LANGUAGES if own != "en"])
def test_the_language_can_be_switched_and_stays_in_the_address(page: Page, language: Any) -> None:
    page.select_option("#language", language)
    words = messages(language)
    expect(page.locator("#story-title")).to_have_text(words["story.1.title"])
    expect(page.locator("html")).to_have_attribute("lang", language)
    assert page.title() == words["page.title"]
    expect(page).to_have_url(re.compile(f"language={language}"))
    page.locator("#story-text .word").first.click()
    expect(page.locator("#word-box")).to_have_text(words["words.gradient"])
    page.click("[data-view=sliders]")
    expect(page.locator("#question")).to_be_hidden()
    expect(page.locator("[data-stage=data]")).to_have_text(words["stage.data"])
    assert "{" not in page.evaluate("document.body.innerText")


def test_why_an_attack_ended_is_told_in_the_language_of_the_page(page: Page, lesson: Lesson) -> None:
    runs = [run for own in lesson.sets.values() for scene in own.scenes for run in scene.runs.values()]
    page.select_option("#language", "de")
    for why in {run.stopped or run.failure for run in runs}:
        assert page.evaluate("(why) => because(why)", why) != why
    told = page.evaluate("because('gave up: 1 of 4 examples separated in 3 rounds, too few exact zeros')")
    assert told == messages("de")["why.few"].format(found=1, n=4, rounds=3)
    assert page.evaluate("because('something else')") == "something else"
