"""Takes the pictures of both demo pages, and of a report, for docs/images. `make screenshots` makes the pages first."""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import threading  # noqa: E402
from pathlib import Path  # noqa: E402

from playwright.sync_api import Page, expect, sync_playwright  # noqa: E402

from fedsim.core.errors import FedsimError  # noqa: E402
from fedsim.demo.live import LiveServer  # noqa: E402

IMAGES = Path(__file__).parent / "images"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PROJECTOR = {"width": 1024, "height": 768}
STATE = "rate=0.5&batch=4&attack=estimates&step=5"
SEVEN = ((0.3, 0.25), (0.7, 0.25), (0.45, 0.8))
PATIENCE_MS = 120_000


def recorded(page: Page, file: Path) -> None:
    """Show a batch in the middle of the Dropout Inversion Attack."""
    page.goto(f"{file.resolve().as_uri()}#{STATE}")
    expect(page.locator("body")).to_have_attribute("data-ready", "yes", timeout=PATIENCE_MS)
    page.screenshot(path=IMAGES / "demo.png")


def live(page: Page) -> None:
    """Draw a seven, and wait for the end of the attack."""
    with LiveServer(0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.goto(server.url)
        page.select_option("#label", "7")
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
        server.shutdown()


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


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, help="what fedsim demo --out has written; - for none")
    parser.add_argument("report", type=Path, help="report.html of the quickstart")
    given = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        raise FedsimError("there is no Chromium. Install it: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, args=FLAGS, viewport=PROJECTOR
        )
        if str(given.page) != "-":
            recorded(browser.new_page(), given.page)
            live(browser.new_page())
        report(browser.new_page(), given.report)
        browser.close()


if __name__ == "__main__":
    try:
        main()
    except FedsimError as error:
        sys.exit(str(error))
