"""Pictures of both demo pages, reports and an audit. `make screenshots` makes the pages first."""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import threading  # noqa: E402
from pathlib import Path  # noqa: E402

from PIL import Image  # noqa: E402
from playwright.sync_api import BrowserContext, Page, ViewportSize, expect, sync_playwright  # noqa: E402

from fedsim.core.errors import FedsimError  # noqa: E402
from fedsim.demo.live import LiveServer  # noqa: E402

IMAGES = Path(__file__).parent / "images"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic"]
PROJECTOR: ViewportSize = {"width": 1024, "height": 768}
PHONE: ViewportSize = {"width": 375, "height": 740}
STATE = "rate=0.5&batch=4&attack=estimates&step=5"
SEVEN = ((0.3, 0.25), (0.7, 0.25), (0.45, 0.8))
PATIENCE_MS = 120_000
GAP = 12
COLOURS = 128  # of a picture in docs, which keeps it small


def recorded(page: Page, file: Path) -> None:
    """Show the story, and a batch in the middle of the Dropout Inversion Attack; dark on a tablet."""
    page.goto(f"{file.resolve().as_uri()}#story=4")
    expect(page.locator("body")).to_have_attribute("data-ready", "yes", timeout=PATIENCE_MS)
    page.screenshot(path=IMAGES / "demo-story.png", clip={"x": 0, "y": 0, "width": 1024, "height": 560})
    page.evaluate("(state) => { location.hash = state; }", STATE)
    expect(page.locator("#sliders")).to_be_visible()
    page.screenshot(path=IMAGES / "demo.png")
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 768, "height": 1024})
    page.evaluate("location.hash = 'rate=0.5&batch=4&attack=exact&data=photographs'")
    page.screenshot(path=IMAGES / "demo-dark.png")
    page.emulate_media(color_scheme="light")


def live(page: Page, url: str) -> None:
    """Draw a seven, and wait for the end of the attack."""
    page.goto(url)
    box = page.locator("#drawing").bounding_box()
    assert box is not None
    (x, y), *rest = [(box["x"] + a * box["width"], box["y"] + b * box["height"]) for a, b in SEVEN]
    page.mouse.move(x, y)
    page.mouse.down()
    for x, y in rest:
        page.mouse.move(x, y, steps=5)
    page.mouse.up()
    expect(page.locator("body")).to_have_attribute("data-phase", "done", timeout=PATIENCE_MS)
    page.screenshot(path=IMAGES / "demo-live.png")


def phone(page: Page, file: Path, url: str, folder: Path) -> None:
    """Show story, sliders and live page side by side, at a phone's width."""
    page.set_viewport_size(PHONE)
    shots = [folder / f"{number}.png" for number in range(3)]
    for shot, state in zip(shots, ("story=1", STATE), strict=False):
        page.goto("about:blank")
        page.goto(f"{file.resolve().as_uri()}#{state}")
        expect(page.locator("body")).to_have_attribute("data-ready", "yes", timeout=PATIENCE_MS)
        page.screenshot(path=shot)
    page.goto(url)
    page.screenshot(path=shots[2])
    pictures = [Image.open(shot).convert("RGB") for shot in shots]
    wide = sum(picture.width for picture in pictures) + GAP * (len(pictures) - 1)
    beside = Image.new("RGB", (wide, pictures[0].height), "grey")
    for number, picture in enumerate(pictures):
        beside.paste(picture, (number * (picture.width + GAP), 0))
    beside.save(IMAGES / "demo-phone.png")


def shrink(path: Path) -> None:
    """Reduce the colours: the difference is invisible on a page of text."""
    Image.open(path).convert("RGB").quantize(COLOURS).save(path, optimize=True)


def demos(browser: BrowserContext, file: Path, folder: Path) -> None:
    """Show both demo pages."""
    recorded(browser.new_page(), file)
    with LiveServer(0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        live(browser.new_page(), server.url)
        phone(browser.new_page(), file, server.url, folder)
        server.shutdown()
    for path in IMAGES.glob("demo*.png"):
        shrink(path)


def report(page: Page, file: Path) -> None:
    """Show the first screen of a report: on a phone, a tablet, a desk in light and dark, and on paper."""
    page.goto(file.resolve().as_uri())
    for name, width, height in (("phone", 375, 740), ("tablet", 768, 1024), ("desk", 1280, 800)):
        page.set_viewport_size({"width": width, "height": height})
        page.screenshot(path=IMAGES / f"report-{name}.png")
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=IMAGES / "report-dark.png")
    page.emulate_media(media="print", color_scheme="light")
    page.set_viewport_size({"width": 720, "height": 1000})
    page.screenshot(path=IMAGES / "report-print.png")
    for path in IMAGES.glob("report-*.png"):
        shrink(path)


def first_screen(page: Page, file: Path, name: str, width: int, height: int) -> None:
    """Show the top of a page."""
    page.set_viewport_size({"width": width, "height": height})
    page.goto(file.resolve().as_uri())
    page.screenshot(path=IMAGES / f"{name}.png")
    shrink(IMAGES / f"{name}.png")


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, help="what fedsim demo --out has written; - for none")
    parser.add_argument("report", type=Path, help="report.html of the quickstart; - for none")
    parser.add_argument("audit", type=Path, help="audit.html of the example; - for none")
    parser.add_argument("sweep", type=Path, help="report.html of the sweep; - for none")
    given = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        raise FedsimError("there is no Chromium. Install it: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, args=FLAGS, viewport=PROJECTOR
        )
        if str(given.page) != "-":
            demos(browser, given.page, Path(profile))
        if str(given.report) != "-":
            report(browser.new_page(), given.report)
        if str(given.audit) != "-":
            first_screen(browser.new_page(), given.audit, "audit", 1100, 760)
        if str(given.sweep) != "-":
            first_screen(browser.new_page(), given.sweep, "sweep-report", 1280, 2000)
        browser.close()


if __name__ == "__main__":
    try:
        main()
    except FedsimError as error:
        sys.exit(str(error))
