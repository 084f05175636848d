"""What the process of a user's code says to its parent: progress, and how it ended."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedsim.audit import child
from fedsim.core.errors import FedsimError
from fedsim.processes import frames
from tests.audit.subjects import plan

Serve = Callable[[Exception | None], list[dict[str, str]]]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Serve:
    """Serve one order whose audit ends so, and return the messages that the parent reads."""

    def serve(end: Exception | None) -> list[dict[str, str]]:
        def run(*given: object) -> None:
            (clock,) = (own for own in given if isinstance(own, child.TimeBudget))
            assert 50 < clock.remaining_seconds <= 60
            if end is not None:
                raise end

        answers = io.BytesIO()
        order = {
            "plan": plan(memory=6.0).model_dump(mode="json"),
            "policy": {},
            "folder": str(tmp_path),
            "seconds": 60.0,
        }
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(frames.json_frame(order))))
        monkeypatch.setattr(child.process, "serve_parent", lambda: answers)
        monkeypatch.setattr(child, "loading", SimpleNamespace(load=lambda name: name, load_subject=lambda *_: None))
        monkeypatch.setattr(child.auditing, "run", run)
        child.serve()
        return [frame.json() for frame in frames.read_all(io.BytesIO(answers.getvalue()))]

    return serve


def test_an_audit_that_ends_well_says_done(served: Serve) -> None:
    assert served(None) == [{"doing": "imports test"}, {"doing": "calls test"}, {"done": ""}]


@pytest.mark.parametrize(
    ("end", "key", "said"),
    [
        (FedsimError("no loader"), "mistake", "no loader"),
        (MemoryError(), "mistake", "'test' ran out of the 6 GiB that --memory allows."),
        (LookupError("a bug"), "crash", "LookupError: a bug"),
    ],
)
def test_a_mistake_of_the_user_is_told_from_a_crash(served: Serve, end: Exception, key: str, said: str) -> None:
    *first, last = served(end)
    assert first == [{"doing": "imports test"}, {"doing": "calls test"}]
    assert [*last] == [key]
    assert said in last[key]
