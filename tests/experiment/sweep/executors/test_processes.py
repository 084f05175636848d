"""A hostile run fails alone."""

from pathlib import Path
from typing import Any

import pytest

from fedsim.experiment.sweep.executors.processes import ProcessExecutor
from tests.experiment.sweep.sweeping import HERE, made, scenario


@pytest.mark.parametrize(
    ("mood", "limits", "cause", "why"),
    [
        pytest.param("hang", {"minutes": 0.25}, "timeout", "longer than sweep.minutes", marks=pytest.mark.slow),
        ("die", {}, "killed", "ended with -9"),
        pytest.param("eat", {"memory": 8}, "error", "MemoryError", marks=pytest.mark.slow),
    ],
)
def test_a_hostile_run_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mood: str, limits: dict[str, Any], cause: str, why: str
) -> None:
    monkeypatch.setenv("MOOD", mood)
    wanted = scenario(grid={"data.name": [f"{HERE}:noisy", "digits"]}, **limits)
    ended = made(tmp_path / "s", wanted, executor=ProcessExecutor())
    assert [outcome.status for outcome in ended] == ["failed", "finished"]
    assert ended[0].failure is not None
    assert (ended[0].failure.cause, why in ended[0].failure.why) == (cause, True)
    monkeypatch.setenv("MOOD", "")
    ended = made(tmp_path / "s", wanted)
    assert sorted(outcome.status for outcome in ended) == ["finished", "reused"]
    assert "{not json" in (tmp_path / "s" / "logs" / "worker-0.log").read_text()
