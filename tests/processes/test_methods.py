"""Methods in this process: randomness, progress, answers of the wrong shape, and failures as sentences."""

from typing import Any

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.core.types import Reconstruction, Step
from fedsim.processes import methods
from fedsim.processes.methods import InProcessRunner, Progress


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


class Drawing:
    def foreign(self, _seen: object, _generator: torch.Generator) -> torch.Tensor:
        return torch.rand(3)

    def max_victims(self, _seen: object) -> int:
        return 5


class Answering:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def call(self, _function: Any, *_seen: Any, **_more: Any) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def guess() -> Reconstruction:
    return Reconstruction(
        inputs=torch.zeros(1, 2),
        labels=torch.zeros(1, dtype=torch.long),
        masks=None,
        objective=0.0,
        iterations=0,
        best_iteration=0,
        history=(),
        stop_reason="",
    )


def test_draws_from_the_global_generator_follow_the_methods_own_generator_and_leave_the_state() -> None:
    method: Any = Drawing()
    before = torch.get_rng_state()
    first, again, other = (
        InProcessRunner(method).call(Drawing.foreign, 0, generators=generators(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("is_single", "shown"), [(True, [1, 1, 2]), (False, [1, 2])])
def test_of_several_victims_the_first_step_of_an_iteration_is_shown(is_single: bool, shown: list[int]) -> None:
    seen: list[int] = []
    progress = Progress(lambda step: seen.append(step.iteration), lambda: False, is_single)
    for iteration in (1, 1, 2):
        progress(Step(0, iteration, 9, 0.0, 0.0, torch.zeros(1)))
    assert seen == shown


def test_a_stop_request_ends_the_search_after_the_step_is_shown() -> None:
    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        Progress(lambda step: seen.append(step.iteration), lambda: True, True)(Step(0, 1, 9, 0.0, 0.0, torch.zeros(1)))
    assert seen == [1]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ([], "0 guesses for 2 updates"),
        ([guess()] * 3, "3 guesses for 2 updates"),
        ([guess(), "text"], "a str, expected a Reconstruction"),
        (None, "NoneType"),
        (ZeroDivisionError("a bug"), "a bug"),
    ],
)
def test_a_wrong_answer_is_a_failure_with_its_reason(answer: Any, why: str) -> None:
    seen: Any = [object(), object()]
    outcome = methods.search(Answering(answer), seen, generators(1, 2))
    assert isinstance(outcome, str)
    assert why in outcome


def test_right_answers_are_returned_in_their_order() -> None:
    seen: Any = [object(), object()]
    answers = [guess(), guess()]
    assert methods.search(Answering(iter(answers)), seen, generators(1, 2)) == answers


@pytest.mark.parametrize(("answer", "count"), [(4, 4), (0, 1), (-3, 1), ("many", 1), (ValueError("no"), 1)])
def test_an_attack_searches_at_least_one_update_at_once(answer: Any, count: int) -> None:
    seen: Any = object()
    assert methods.max_victims(Answering(answer), seen) == count


def test_an_answer_that_must_be_a_tensor_is_checked() -> None:
    tensor = torch.ones(2)
    assert methods.require_tensor(tensor) is tensor
    with pytest.raises(FedsimError, match="list, expected a tensor"):
        methods.require_tensor([1.0])
