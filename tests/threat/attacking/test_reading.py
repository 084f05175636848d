"""An attack on traces in a process of its own answers as here, and a failure stays its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import TraceAttack
from fedsim.core.types import Config, TraceCase, TraceQuestion
from fedsim.experiment import runner
from fedsim.record.store import RunFolder
from fedsim.scenario import Scenario
from fedsim.threat.attacking import frames
from fedsim.threat.attacking.apart import Apart
from fedsim.threat.attacking.processes import HERE
from fedsim.threat.attacking.reading import Answer, answer_here, read_here, read_isolated
from tests.attacks.generation.cases import case
from tests.experiment.running import Silent
from tests.experiment.test_training import tables


def make(name: str, **settings: Any) -> TraceAttack[Any]:
    method = registry.get("trace", name)
    return method.make(method.config.model_validate(settings)).named(name)


def paces(question: TraceQuestion) -> TraceCase:
    return case(question, "counts")


def source() -> torch.Generator:
    return seeding.generator(1, "trace attack")


def test_the_answer_of_another_process_is_that_of_this_one_and_so_is_its_failure() -> None:
    forest, prompt = make("trace-forest", trees=3), paces("prompt")
    with read_isolated(lambda: False) as apart, read_here(lambda: False) as here:
        assert torch.equal(apart(forest, prompt, source()), here(forest, prompt, source()))
        reasons = []
        for answer in (apart, here):
            with pytest.raises(FedsimError) as failed:
                answer(forest, paces("bits"), source())
            reasons.append(str(failed.value))
        assert reasons == ["it answers prompt and member, not bits"] * 2
        assert torch.equal(apart(forest, prompt, source()), here(forest, prompt, source()))


class Foreign(TraceAttack[Config]):
    """Draws from torch's global generator."""

    questions = ("prompt",)

    def search(self, case: TraceCase, generator: torch.Generator) -> torch.Tensor:
        return torch.rand(len(case.seen))


def test_what_an_attack_draws_elsewhere_follows_its_seed_and_leaves_others_alone() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, second = (answer_here(Foreign(Config()), paces("prompt"), source()) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("kind", "payload", "told"),
    [
        (frames.FAILED, b"a bug", "a bug"),
        (frames.ANSWER, frames.packed({"a": 1}), "its answer is a dict, expected a tensor"),
        (frames.COUNT, b"3", "3"),
    ],
)
def test_nonsense_is_the_attacks_failure(kind: bytes, payload: bytes, told: str) -> None:
    with pytest.raises(FedsimError, match=told):
        frames.read_answer(kind, payload)


def test_a_process_is_of_one_attack_with_its_settings_and_ends_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []
    ended: list[int] = []

    def start(self: Apart, hello: dict[str, Any], should_stop: Callable[[], bool]) -> None:
        started.append(hello)

    monkeypatch.setattr(Apart, "__init__", start)
    monkeypatch.setattr(Apart, "end", lambda self: ended.append(1))
    monkeypatch.setattr(Apart, "ask", lambda self, kind, request: (frames.ANSWER, frames.packed(torch.zeros(1))))
    with read_isolated(lambda: False) as answer:
        for trees in (3, 3, 4):
            answer(make("trace-forest", trees=trees), paces("prompt"), source())
        assert ended == []
    assert [hello["trace"] for hello in started] == [
        {"name": "trace-forest", "settings": {"trees": trees}} for trees in (3, 4)
    ]
    assert ended == [1, 1]


def test_a_run_asks_where_it_was_told(scenario: Callable[..., Scenario], tmp_path: Path) -> None:
    asked: list[str] = []

    @contextmanager
    def noting(should_stop: Callable[[], bool]) -> Iterator[Answer]:
        def answer(attack: TraceAttack[Any], case: TraceCase, generator: torch.Generator) -> torch.Tensor:
            asked.append(f"{attack.name} {case.question}")
            return answer_here(attack, case, generator)

        yield answer

    own = tables(tmp_path)
    own["attacks"] = []
    own["generation"]["attacks"] = [{"name": "trace-figures"}]
    folder = RunFolder(tmp_path / "run")
    folder.create(overwrite=False)
    record = runner.run(
        scenario(**own), folder, Silent(), command="test", earlier=None, processes=HERE._replace(readers=noting)
    )
    (arm,) = record.arms
    assert asked == ["trace-figures bits"] * 2
    assert [finding.failure for finding in arm.findings] == [""] * 3  # what was written stands before


@pytest.mark.slow
def test_the_record_is_the_same_wherever_traces_are_attacked(scenario: Callable[..., Scenario], tmp_path: Path) -> None:
    own = tables(tmp_path)
    own["attacks"] = []
    own["generation"]["attacks"] = [{"name": "trace-forest", "trees": 5}, {"name": "trace-mean"}]
    own["generation"]["candidates"] = 4
    own["data"]["test_fraction"] = 0.5
    found = []
    for name, readers in (("here", read_here), ("apart", read_isolated)):
        folder = RunFolder(tmp_path / name)
        folder.create(overwrite=False)
        record = runner.run(
            scenario(**own), folder, Silent(), command="test", earlier=None, processes=HERE._replace(readers=readers)
        )
        found.append([own.model_copy(update={"seconds": 0.0}) for own in record.arms[0].findings])
    assert found[0] == found[1]
    assert not [finding.failure for finding in found[0] if finding.failure]
