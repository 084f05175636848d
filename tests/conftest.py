"""Fixtures that every test may use. Process settings come first: they work only before torch is imported."""

from fedsim.core import process

process.prepare()

import gc  # noqa: E402
import os  # noqa: E402
import random  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import zlib  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, ClassVar  # noqa: E402

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from fedsim.core import registry  # noqa: E402
from fedsim.core.errors import MissingExtra  # noqa: E402
from fedsim.core.hooks import Defense, HookContext  # noqa: E402
from fedsim.core.nets import checkpoints  # noqa: E402
from fedsim.core.types import Config, MethodDescription, Observation, Truth, Update  # noqa: E402
from fedsim.report import drawing  # noqa: E402
from fedsim.scenario import Scenario  # noqa: E402
from fedsim.scenario import world as worlds  # noqa: E402
from tests import federating  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

torch.set_num_threads(1)

gc.disable()  # until all tests are collected, since nothing of them is garbage

# In the background of a shell, under nohup and in some CI, Ctrl-C is ignored, and every program started from here would
# ignore it too. One with a handler is reset for them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_SLOW = 3600.0  # seconds; the others have `timeout` of pyproject.toml
_BEGAN = pytest.StashKey[float]()
_SPENT = "processor_seconds"
_COSTLY = 5.0  # processor seconds from which a test is listed behind a run
_LISTED = 20

# A shared machine can stall any single example. Slow tests draw as many examples as hypothesis does by default.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=40)

KNOWN = ("labels", "batch-size", "dropout-rates", "input-statistics")


def pytest_configure(config: pytest.Config) -> None:
    """Draw fewer examples of a property where slow tests are left out: nearly all of the time of such a test."""
    hypothesis.settings.load_profile("quick" if config.option.markexpr == "not slow" else "no deadline")


class Backwards(pytest.Dir):
    """A folder that is collected from its end."""

    def collect(self) -> Iterator[pytest.Item | pytest.Collector]:
        return reversed(list(super().collect()))


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Let the second process begin at the end: on its half of the way it finds what the first has compiled."""
    return Backwards.from_parent(parent, path=path) if os.environ.get("PYTEST_XDIST_WORKER") == "gw1" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests longer, leave out what needs a GPU where there is none, and give all processes one order."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.path)
    for item in items:
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="there is no GPU"))
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_SLOW))


def pytest_collection_finish() -> None:
    """Spare the garbage collector what stays until the end: ten thousand tests, and what they import."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Note when a test begins, in processor seconds, and print no figures of reports that it only passes by."""
    item.stash[_BEGAN] = _processor_seconds()
    with pytest.MonkeyPatch.context() as patch:
        if not item.get_closest_marker("draws"):
            patch.setattr(drawing, "render_figure", lambda _figure: (b"PNG", b"<svg/>"))
        return (yield)


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """A draw without a source of its own is the same each time that a test runs, after whichever other test."""
    seed = zlib.crc32(request.node.nodeid.encode())
    torch.default_generator.manual_seed(seed)  # torch.manual_seed writes down a stack for each kind of device
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed)
    random.seed(seed)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Note the processor seconds of a test."""
    report = yield
    if report.when == "call":
        spent = _processor_seconds() - item.stash[_BEGAN]
        report.user_properties.append((_SPENT, spent))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tests that take the most processor seconds, as candidates for the mark "slow"."""
    reports = (report for group in terminalreporter.stats.values() for report in group)
    spent = [(dict(report.user_properties).get(_SPENT, 0.0), report.nodeid) for report in reports if _is_call(report)]
    costly = [(seconds, name) for seconds, name in sorted(spent, reverse=True)[:_LISTED] if seconds > _COSTLY]
    if costly:
        terminalreporter.section("most processor seconds")
    for seconds, name in costly:
        terminalreporter.write_line(f"{seconds:6.1f}  {name}")


def _is_call(report: object) -> bool:
    return isinstance(report, pytest.TestReport) and report.when == "call"


def _processor_seconds() -> float:
    """Return what this process, and those that it waited for, have used."""
    return sum(os.times()[:4])


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Fail a test that leaves gradients switched off: every later test of the process would fail for it."""
    result = yield
    is_enabled = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    assert is_enabled, "gradients are switched off behind this test"
    return result


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator["BrowserContext"]:
    """The one browser of this process, without network: a second would find the event loop of the first, and refuse."""
    from playwright.sync_api import expect, sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium, or set CHROMIUM to the path of one")
    profile = tmp_path_factory.mktemp("profile")
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic"]
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=path, args=flags, viewport={"width": 1024, "height": 768}
        )
        context.set_default_timeout(60_000)  # a shared machine can stall anything
        expect.set_options(timeout=60_000)
        yield context
        context.close()


@pytest.fixture(scope="session")
def scenario() -> Callable[..., Scenario]:
    """Build a small scenario on real digits; a table among the arguments replaces one that names another method."""
    return federating.scenario


@pytest.fixture
def watched() -> Callable[..., tuple[Observation, Truth, worlds.World]]:
    """Run one client's round of a small scenario, and observe it."""
    return federating.watched


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The checkpoint folder of the real model; without its package the test is skipped, and fails in CI."""
    try:
        return checkpoints.smollm2()
    except MissingExtra as error:
        (pytest.fail if "CI" in os.environ else pytest.skip)(str(error))


class CountingConfig(Config):
    """Settings of the counter."""

    refused: tuple[tuple[int, int], ...] = ()
    crashes: tuple[tuple[int, int], ...] = ()


class Counting(Defense[CountingConfig]):
    """Counts a client's rounds; at (round, client) sends what the server refuses, or crashes after training."""

    keeps_state: ClassVar[bool] = True
    seen: ClassVar[list[tuple[int, int, int]]] = []

    def on_upload(self, update: Update, here: HookContext) -> Update:
        here.memory["rounds"] = here.memory.get("rounds", torch.tensor(0)) + 1
        self.seen.append((here.round, here.client, int(here.memory["rounds"])))
        if (here.round, here.client) in self.config.crashes:
            raise RuntimeError("crashed after training")
        if (here.round, here.client) in self.config.refused:
            return replace(update, tensors={name: t * torch.nan for name, t in update.tensors.items()})
        return update

    def adaptive_view(self) -> MethodDescription:
        return MethodDescription("counting")


class ErrorFeedbackConfig(Config):
    """No settings."""


class ErrorFeedback(Defense[ErrorFeedbackConfig]):
    """Sends the entries above the mean magnitude, and adds what it held back to the next update that counts."""

    keeps_state: ClassVar[bool] = True

    def on_upload(self, update: Update, here: HookContext) -> Update:
        sent = {}
        for name, tensor in update.tensors.items():
            whole = tensor + here.memory.get(name, torch.zeros_like(tensor))
            sent[name] = whole * (whole.abs() > whole.abs().mean())
            here.memory[name] = whole - sent[name]
        return replace(update, tensors=sent)

    def adaptive_view(self) -> MethodDescription:
        return MethodDescription("error-feedback")


@pytest.fixture
def own_methods() -> Iterator[None]:
    """Methods that are registered in this test are forgotten after it."""
    with registry.temporary():
        yield


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch, own_methods: None) -> type[Counting]:
    """The defenses 'counting' and 'error-feedback', for one test; returns the first, whose `seen` is empty."""
    registry.defense("counting", summary="counts a client's rounds")(Counting)
    registry.defense("error-feedback", summary="sends large entries, keeps the rest")(ErrorFeedback)
    monkeypatch.setattr(Counting, "seen", [])
    return Counting


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process, and return its exit code and what it wrote."""
    from fedsim.cli import main as cli

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "path", list(sys.path))  # it may add the working folder
        monkeypatch.setattr("fedsim.core.process.own_folders", [])
        monkeypatch.setattr(sys, "argv", ["fedsim", *arguments])
        capsys.readouterr()
        try:
            cli.main()
        except SystemExit as ended:
            return int(ended.code or 0), *capsys.readouterr()
        return 0, *capsys.readouterr()

    return run
