"""No question is answered by order, call counting, row numbers or spraying, whatever questions the registry has.

An honest attack answers once. Under another salt its recorded answers are played back by the number of the call, and by
row numbers where what is seen has some: a question that lets its attacks be right so hands the truth out. Questions
that start no method have nothing to cheat with, which is asserted too.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.core import registry
from fedsim.core.choices import Choice
from fedsim.core.registry import Kind
from fedsim.core.types import Reconstruction
from fedsim.experiment import runner
from fedsim.processes.methods import AtWork, ShouldStop, Start, start_here
from fedsim.processes.salt import SaltedStart
from fedsim.questions.base import Evidence, QuestionContext, answers
from fedsim.record import ArmFindings, Finding
from fedsim.scenario import parse
from fedsim.scenario.world import build
from fedsim.threat.replay import replay
from tests.questions.attributes import described
from tests.questions.membership import judged

TABLES: dict[str, dict[str, Any]] = {
    "attacks": {"data": {"name": "digits"}, "attacks": [{"name": "closed-form-linear"}]},
    "membership": {**judged.SMALL, "membership": {"candidates": 40, "attacks": [{"name": "loss-threshold"}]}},
    "attributes": {
        **described.SMALL,
        "attributes": {"public": 8, "attacks": [{"name": "change-norms", "attribute": "parity"}]},
    },
    "trees": {
        "data": {"name": "breast-cancer"},
        "trees": {"clients": 2, "rows": 40, "columns": 5, "trees": 3, "attacks": [{"name": "boxes", "tries": 1}]},
    },
    "vertical": {
        "data": {"name": "breast-cancer"},
        "vertical": {
            "parties": [{"name": "a", "columns": [0, 10]}, {"name": "b", "columns": [20, 30]}],
            "epochs": 1,
            "attacked_rows": 100,
            "knows": ["few-labels", "top"],
            "attacks": [{"name": "cut-line"}],
        },
    },
}


class Recording:
    """Answers as the method does, and keeps its answers."""

    def __init__(self, method: AtWork, kept: list[Any]) -> None:
        self.method, self.kept = method, kept

    def call(self, name: str, *seen: Any, **more: Any) -> Any:
        answer = self.method.call(name, *seen, **more)
        if name != "at_once":
            self.kept.append((answer, numbers_in(seen)))
        return answer


class Playing:
    """Answers what was recorded at this call, whatever it is asked; by row numbers where there are some."""

    def __init__(self, kept: Sequence[Any], is_by_row: bool) -> None:
        self.kept, self.is_by_row = iter(kept), is_by_row

    def call(self, name: str, *seen: Any, **_more: Any) -> Any:
        if name == "at_once":
            return 1
        answer, numbers = next(self.kept)
        asked = numbers_in(seen)
        if not self.is_by_row or numbers is None or asked is None or not isinstance(answer, Tensor):
            return answer
        place = {int(number): row for row, number in enumerate(numbers)}
        return answer[torch.tensor([place.get(int(number), 0) for number in asked])]


class Spraying:
    """Answers what the method does, three times."""

    def __init__(self, method: AtWork) -> None:
        self.method = method

    def call(self, name: str, *seen: Any, **more: Any) -> Any:
        answer = self.method.call(name, *seen, **more)
        if isinstance(answer, Tensor):
            return torch.cat([answer] * 3)
        if isinstance(answer, Sequence) and answer and isinstance(answer[0], Reconstruction):
            return [
                replace(one, inputs=torch.cat([one.inputs] * 3), labels=torch.cat([one.labels] * 3)) for one in answer
            ]
        return answer


def numbers_in(seen: Any) -> Tensor | None:
    """Return numbers of rows in what is seen: a field `rows` of integers."""
    parts: Sequence[Any] = seen if isinstance(seen, tuple | list) else ()
    for part in parts:
        if is_dataclass(part) and "rows" in {field.name for field in fields(part)}:
            return vars(part)["rows"]
    return None


def wrapped(make: Any) -> Start:
    @contextmanager
    def start(kind: Kind, choice: Choice, should_stop: ShouldStop) -> Iterator[AtWork]:
        with start_here(kind, choice, should_stop) as method:
            yield make(method)

    return start


def found(name: str, start: Start, salt: bytes) -> list[Finding]:
    """Return the findings of a question in the table of its name, its methods started so."""
    table = TABLES[name]
    raw: dict[str, Any] = {
        "title": "t",
        "seed": 3,
        "model": {"name": "mlp", "width": 16, "depth": 1, "dropout": 0.0},
        "federation": {"clients": 2, "batch_size": 1 if name == "attacks" else 8},
        **table,
    }
    world = build(parse(raw, "contract.toml"))
    journal = runner.train(world, lambda _: None)
    replays = [replay(world, entry) for entry in journal.entries]
    (question,) = (one for one in world.questions if one.name == name)
    evidence = Evidence(world, journal, replays)
    findings = list(answers(question, evidence, QuestionContext(SaltedStart(start, salt))))
    return list(ArmFindings(name="all").with_findings(findings, {}).findings)


def of_attacks(findings: Sequence[Finding]) -> list[Finding]:
    return [one for one in findings if one.role in ("attack", "positive-control") and one.method]


def starts_methods(name: str) -> bool:
    """Whether the module of a question starts methods, as its source says."""
    from inspect import getsource
    from sys import modules

    question: Any = registry.get("question", name).make
    source = getsource(modules[question.__module__])
    return "work.start(" in source or "attempted(" in source or "judge_all(" in source


def test_every_question_that_starts_methods_is_played() -> None:
    """A new question that starts methods needs a table above; `generation` is played by tests of positions."""
    asked = {name for name in registry.methods("question") if starts_methods(name)}
    assert {"attacks", "membership", "trees", "vertical"} <= asked
    assert asked - set(TABLES) <= {"generation"}


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_recorded_answers_say_nothing_under_another_salt(name: str) -> None:
    kept: list[Any] = []
    honest = of_attacks(found(name, wrapped(lambda method: Recording(method, kept)), b"one"))
    assert honest
    assert not any(one.failure for one in honest), [one.failure for one in honest]
    for is_by_row in (False, True) if name != "attacks" else ():  # an update is its own question: nothing is ordered
        played = of_attacks(found(name, wrapped(lambda _, how=is_by_row: Playing(kept, how)), b"two"))
        if name == "trees":  # its rows are drawn anew, and its answers are of other trees
            assert all(one.state != "recovered" for one in played)
            continue
        assert all(one.failure or not one.is_above_chance for one in played), [
            (one.label, one.value, one.chance_level) for one in played
        ]


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_more_answers_than_there_is_to_guess_are_refused(name: str) -> None:
    sprayed = of_attacks(found(name, wrapped(Spraying), b"one"))
    assert sprayed
    assert all(one.state in ("failed", "withstood") for one in sprayed), [(one.label, one.state) for one in sprayed]
