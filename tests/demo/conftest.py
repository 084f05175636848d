"""A recording of a tiny grid, and a page that complains about everything unexpected."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page

from fedsim.demo.lesson import CASES, Lesson, question_of
from fedsim.demo.live import LiveServer
from fedsim.demo.page import write
from fedsim.demo.recording import RecordedGrid, Recording, recording_of, scene_of

TINY = RecordedGrid(
    rates=(0.0, 0.5), batches=(1, 2), noises=(1.0, 10.0), protections=("none", "noise"), frames=(1, 3, 6)
)

SLIDERS = "rate=0.5"  # an address of the sliders, not of the story

Open = Callable[[str], Page]


@pytest.fixture(scope="session")
def recording() -> Recording:
    return recording_of(TINY, [scene_of(setting, TINY) for setting in TINY.settings()])


@pytest.fixture(scope="session")
def lesson(recording: Recording) -> Lesson:
    asked = (question_of(number, CASES[number], TINY.frames[-1]) for number in (0, 2, 6))
    return Lesson(sets={"digits": recording}, quiz=tuple(question for question in asked if question))


@pytest.fixture(scope="session")
def page_file(lesson: Lesson, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "demo.html"
    write(lesson, path)
    return path


@pytest.fixture(scope="session")
def live_server() -> Iterator[LiveServer]:
    with LiveServer(0, iterations=2) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def live_page(browse: Open, live_server: LiveServer) -> Page:
    return browse(live_server.url)


@pytest.fixture
def browse(chromium: BrowserContext) -> Iterator[Open]:
    """Open an address; afterwards nothing may stand on the console, and nothing else may have been asked for."""
    pages: list[Page] = []
    trouble: list[str] = []

    def opened(address: str) -> Page:
        page = chromium.new_page()
        pages.append(page)
        own = address.partition("#")[0]
        own = own.rpartition("/")[0] if own.startswith("http") else own  # a served page has a style sheet beside it
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
