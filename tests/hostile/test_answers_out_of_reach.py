"""No question is answered by order, call counting, row numbers or spraying, whatever questions the registry has.

An honest attack answers once, in the question's own `example()`. Under another salt its recorded answers are played
back by the number of the call, and by row numbers where the observation has row numbers: a question whose attacks are
right in this way gives the truth away. Questions that start no method have nothing to cheat with, as a test asserts.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim import questions
from fedsim.core import registry
from fedsim.core.choices import Choice
from fedsim.core.hooks import Attack
from fedsim.core.types import Reconstruction
from fedsim.experiment import runner
from fedsim.processes.methods import MethodRunner, ShouldStop, Start, start_in_process
from fedsim.processes.salt import SaltedStart
from fedsim.questions.base import Evidence, QuestionContext, answers
from fedsim.record import ArmFindings, Finding
from fedsim.scenario import parse
from fedsim.scenario.world import build
from fedsim.threat.replay import replay


class Recording:
    """Answers as the method does, and keeps its answers."""

    def __init__(self, method: MethodRunner, kept: list[Any]) -> None:
        self.method, self.kept = method, kept

    def call(self, function: Callable[..., Any], *seen: Any, **more: Any) -> Any:
        answer = self.method.call(function, *seen, **more)
        if function is not Attack.max_victims:
            self.kept.append((answer, numbers_in(seen)))
        return answer


class Playing:
    """Answers what was recorded at this call, whatever it is asked; by row numbers where there are some."""

    def __init__(self, kept: Sequence[Any], is_by_row: bool) -> None:
        self.kept, self.is_by_row = iter(kept), is_by_row

    def call(self, function: Callable[..., Any], *seen: Any, **_more: Any) -> Any:
        if function is Attack.max_victims:
            return 1
        answer, numbers = next(self.kept)
        asked = numbers_in(seen)
        if not self.is_by_row or numbers is None or asked is None or not isinstance(answer, Tensor):
            return answer
        place = {int(number): row for row, number in enumerate(numbers)}
        return answer[torch.tensor([place.get(int(number), 0) for number in asked])]


class Spraying:
    """Answers what the method does, three times."""

    def __init__(self, method: MethodRunner) -> None:
        self.method = method

    def call(self, function: Callable[..., Any], *seen: Any, **more: Any) -> Any:
        answer = self.method.call(function, *seen, **more)
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
    def start(choice: Choice, should_stop: ShouldStop) -> Iterator[MethodRunner]:
        with start_in_process(choice, should_stop) as method:
            yield make(method)

    return start


def found(name: str, start: Start, salt: bytes) -> list[Finding]:
    """Return the findings of a question in its example, with methods from `start`."""
    raw: dict[str, Any] = {
        "title": "t",
        "seed": 3,
        "model": {"name": "mlp", "width": 16, "depth": 1, "dropout": 0.0},
        "federation": {"clients": 2, "batch_size": 1},
        **example(name),
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


def example(name: str) -> Mapping[str, Any]:
    question: Any = registry.get("question", name).make
    return question.example()


def starts_methods(name: str) -> bool:
    """Whether a module of the question, or of its package, starts methods."""
    question: Any = registry.get("question", name).make
    path = Path(inspect.getfile(question))
    package = [path] if path.parent == Path(questions.__file__).parent else path.parent.rglob("*.py")
    return any(sign in one.read_text() for one in package for sign in ("work.start(", ".starts(", "run_or_fail("))


PLAYED = [name for name in registry.methods("question") if starts_methods(name)]


@pytest.mark.parametrize("name", registry.methods("question"))
def test_a_question_that_starts_methods_has_an_example_with_an_attack(name: str) -> None:
    """A new question is played without an edit here."""
    assert bool(example(name)) == (name in PLAYED)
    if name in PLAYED:
        assert example(name)["attacks"] if name == "attacks" else example(name)[name]["attacks"]


def test_the_questions_that_are_known_to_start_methods_are_found() -> None:
    assert {"attacks", "attributes", "generation", "membership", "trees", "vertical"} <= set(PLAYED)
    assert not {"exposure", "sources"} & set(PLAYED)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAYED)
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
@pytest.mark.parametrize("name", PLAYED)
def test_more_answers_than_there_is_to_guess_are_refused(name: str) -> None:
    sprayed = of_attacks(found(name, wrapped(Spraying), b"one"))
    assert sprayed
    assert all(one.state in ("failed", "withstood") for one in sprayed), [(one.label, one.state) for one in sprayed]


class Watching:
    """Answers as the method does, and collects the named parts of every argument."""

    def __init__(self, method: MethodRunner, parts: list[tuple[str, Any]]) -> None:
        self.method, self.parts = method, parts

    def call(self, function: Callable[..., Any], *seen: Any, **more: Any) -> Any:
        self.parts += named_parts("", seen)
        return self.method.call(function, *seen, **more)


def named_parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields, keys and items of a value with the name of the field or key, at any depth."""
    yield name, value
    if is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from named_parts(field.name, vars(value).get(field.name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from named_parts(str(key), item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from named_parts(name, item)


SECRETS = {"seed", "salt", "is_member", "truth", "originals", "folder", "path"}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAYED)
def test_a_method_sees_no_seed_no_truth_and_no_history_of_a_tensor(name: str) -> None:
    parts: list[tuple[str, Any]] = []
    assert of_attacks(found(name, wrapped(lambda method: Watching(method, parts)), b"one"))
    assert len(parts) > 3
    assert not {field for field, _ in parts} & SECRETS
    tensors = [(field, value) for field, value in parts if isinstance(value, Tensor)]
    assert not [field for field, tensor in tensors if tensor.grad_fn is not None]
