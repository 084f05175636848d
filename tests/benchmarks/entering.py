"""Check that the tests of papers' steps run the code of these steps: ``python -m tests.benchmarks.entering TEST_FILE``.

It runs the tests of a file that are marked with a step, under a profile that sees every call of a Python function,
and prints a line for each step without a call of its code. A subprocess, because a profile slows every call.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple

import pytest

from benchmarks import _papers

_FINISHED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)


class Claim(NamedTuple):
    """A step of a paper, the full name of its code, and its test: file and function."""

    step: str
    code: str
    path: str
    test: str


def claims() -> list[Claim]:
    """Return the built steps of all methods."""
    return [
        Claim(f"{entry.name}: {step}", _papers.place_of(entry, code), *_papers.oracle_of(entry, step).split("::"))
        for entry in _papers.stepwise()
        for step, code in entry.paper_steps
        if code and _papers.oracle_of(entry, step)
    ]


def importable(name: str) -> Any:
    """Return the object of a full name: the longest prefix is a module, the rest are attributes."""
    module, _, rest = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), rest)
    except ModuleNotFoundError:
        return getattr(importable(module), rest)


def codes_of(thing: Any) -> set[CodeType]:
    """Return the code of a function, or of all functions that a class defines itself."""
    if inspect.isclass(thing):
        return set[CodeType]().union(*(codes_of(part) for part in vars(thing).values() if not inspect.isclass(part)))
    if isinstance(thing, property):
        return codes_of(thing.fget)
    plain = inspect.unwrap(getattr(thing, "__func__", thing))
    return {plain.__code__} if inspect.isfunction(plain) else set()


class Entering:
    """Pytest plugin: runs the tests of claims until each has entered its code.

    Attributes:
        missing: by test, the claims whose code was not entered yet.
        ran: tests that were not skipped, for example for a package that is not installed.
    """

    def __init__(self, claimed: list[Claim]) -> None:
        self.missing: dict[str, dict[Claim, set[CodeType]]] = {}
        self.ran: set[str] = set()
        self._caches: list[Callable[[], None]] = []
        for claim in claimed:
            thing = importable(claim.code)
            self.missing.setdefault(claim.test, {})[claim] = codes_of(thing)
            if isinstance(thing, functools._lru_cache_wrapper):
                self._caches.append(thing.cache_clear)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the tests of claims."""
        items[:] = [item for item in items if _name(item) in self.missing]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Profile a test, fixtures included."""
        entered: set[CodeType] = set()

        def note(frame: FrameType, _event: str, _argument: object) -> None:
            entered.add(frame.f_code)

        for clear in self._caches:
            clear()
        threading.setprofile(note)
        sys.setprofile(note)
        try:
            result = yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]
        claimed = self.missing[_name(item)]
        for claim in [claim for claim, codes in claimed.items() if codes & entered]:
            del claimed[claim]
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that ran."""
        if report.when == "call" and not report.skipped:
            self.ran.add(report.nodeid.rpartition("::")[2].partition("[")[0])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip further parameters of a test that has entered all its code."""
        if not self.missing[_name(item)]:
            pytest.skip("its code was entered")


def _name(item: pytest.Item) -> str:
    return getattr(item, "originalname", item.name)


def main(path: str) -> int:
    """Print the claims on the tests of a file that do not hold, and return 1 if there are any.

    A test that fails is no concern of this check: under a profile it may take longer than a quick test is allowed to.
    """
    plugin = Entering([claim for claim in claims() if claim.path == path])
    quiet = ["-q", "--assert=plain", "-p", "no:xdist", "-p", "no:cacheprovider", "--no-header"]
    outcome = pytest.main([path, *quiet], plugins=[plugin])
    missing = [claim for test, claimed in plugin.missing.items() if test in plugin.ran for claim in claimed]
    for claim in missing:
        print(f"{claim.step}: {claim.path}::{claim.test} does not run {claim.code}")
    return 1 if missing or outcome not in _FINISHED else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
