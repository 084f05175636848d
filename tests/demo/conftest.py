"""A browser without network, a recording of a tiny grid, and a page that complains about everything unexpected."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

from fedsim.demo.page import write
from fedsim.demo.recording import Grid, Recording, record

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
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
TINY = Grid(rates=(0.0, 0.5), batches=(1, 2), noises=(1.0, 10.0), protections=("none", "noise"), frames=(1, 3, 6))

Open = Callable[[str], Page]


@pytest.fixture(scope="session")
def recording() -> Recording:
    return record(TINY, 1, lambda _done, _total: None)


@pytest.fixture(scope="session")
def page_file(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "demo.html"
    write(recording, path)
    return path


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium, or set CHROMIUM to the path of one")
    profile = tmp_path_factory.mktemp("profile")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=FLAGS, viewport=PROJECTOR
        )
        context.set_default_timeout(60_000)  # a shared machine can stall anything
        expect.set_options(timeout=60_000)
        yield context
        context.close()


@pytest.fixture
def browse(chromium: BrowserContext) -> Iterator[Open]:
    """Open an address; afterwards nothing may stand on the console, and nothing else may have been asked for."""
    pages: list[Page] = []
    trouble: list[str] = []

    def opened(address: str) -> Page:
        page = chromium.new_page()
        pages.append(page)
        own = address.partition("#")[0]
        page.on("console", lambda message: trouble.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on(
            "request",
            lambda request: None if request.url.startswith((own, "data:", "blob:")) else trouble.append(request.url),
        )
        page.goto(address)
        return page

    yield opened
    for page in pages:
        page.close()
    assert trouble == []
