"""Client calls in worker processes: in order, few at a time, and a worker that dies is told."""

from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from fedsim.core.errors import FedsimError
from fedsim.experiment.runner import model_hash
from fedsim.federation.engines import _pool
from tests.experiment.running import Build
from tests.federating import run


@pytest.mark.slow
def test_worker_processes_give_the_same_bits(scenario: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.federation.engines.local._WORTH_A_PROCESS", 0.0)
    settings = {"rounds": 2, "batch_size": 4, "algorithm": "fedavg", "local_steps": 2}
    alone = run(scenario(federation=settings))
    together = run(scenario(federation={**settings, "workers": 2}))
    assert model_hash(together.weights) == model_hash(alone.weights)
    assert [record.training_loss for record in together.rounds] == [record.training_loss for record in alone.rounds]


class Now:
    """An executor without processes: a call is made when its answer is asked for."""

    begun: ClassVar[list[int]] = []

    def __init__(self, *_: object, **__: object) -> None: ...

    def submit(self, _work: object, message: int, context: Any) -> Any:
        self.begun.append(message)

        def result() -> tuple[str, str]:
            if message < 0:
                raise BrokenProcessPool
            return f"reply {message}", f"state of {context.node_id}"

        return SimpleNamespace(result=result)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> _pool.Pool:
    monkeypatch.setattr(_pool, "ProcessPoolExecutor", Now)
    monkeypatch.setattr(Now, "begun", [])
    return _pool.Pool(2)


def calls(*messages: int) -> Iterator[Any]:
    return ((message, SimpleNamespace(node_id=10 + message)) for message in messages)


def test_replies_come_in_order_and_few_calls_are_under_way(pool: _pool.Pool) -> None:
    answers = pool.answers(calls(*range(7)))  # type: ignore[arg-type]
    assert Now.begun == []
    assert next(answers) == ("reply 0", 10, "state of 10")
    assert Now.begun == [0, 1, 2, 3]
    assert [reply for reply, _, _ in answers] == [f"reply {n}" for n in range(1, 7)]


def test_a_worker_that_dies_is_one_sentence(pool: _pool.Pool) -> None:
    with pytest.raises(FedsimError, match="a worker process ended before it answered.*Set federation.workers = 1"):
        list(pool.answers(calls(1, -1)))  # type: ignore[arg-type]


def test_a_pool_that_never_began_has_nothing_to_end() -> None:
    _pool.Pool(2).close()
