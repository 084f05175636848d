"""An attack on traces in a process of its own answers as here, and a failure stays its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.types import Config
from fedsim.experiment import runner
from fedsim.processes.methods import MethodRunner, start_in_process
from fedsim.processes.subprocess_runner import start_in_subprocess
from fedsim.questions.generation.hooks import TraceAttack
from fedsim.questions.generation.side_channels import answer_here
from fedsim.questions.generation.types import TraceCase, TraceQuestion
from fedsim.record.store import RunFolder
from fedsim.scenario import Choice
from tests.attacks.generation.cases import case
from tests.experiment.generating import tables
from tests.experiment.running import Build, Silent


def paces(question: TraceQuestion) -> TraceCase:
    return case(question, "counts")


def source() -> torch.Generator:
    return seeding.generator(1, "trace attack")


@pytest.mark.slow
def test_the_answer_of_another_process_is_that_of_this_one_and_so_is_its_failure() -> None:
    choice, prompt = Choice(name="trace-forest", settings={"trees": 3}), paces("prompt")
    with (
        start_in_subprocess(choice, lambda: False) as apart,
        start_in_process(choice, lambda: False) as here,
    ):

        def answers(case: TraceCase) -> list[torch.Tensor]:
            return [at_work.call(TraceAttack.__call__, case, generators=[source()]) for at_work in (apart, here)]

        assert torch.equal(*answers(prompt))
        for at_work in (apart, here):
            with pytest.raises(FedsimError, match="^it answers prompt and member, not bits$"):
                at_work.call(TraceAttack.__call__, paces("bits"), generators=[source()])
        assert torch.equal(*answers(prompt))


class Foreign(TraceAttack[Config]):
    """Draws from torch's global generator."""

    questions = ("prompt",)

    def search(self, case: TraceCase, generator: torch.Generator) -> torch.Tensor:
        return torch.rand(len(case.observations))


def test_what_an_attack_draws_elsewhere_follows_its_seed_and_leaves_others_alone() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, second = (answer_here(Foreign(Config()), paces("prompt"), source()) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_run_starts_each_attack_once_where_it_was_told(scenario: Build, tmp_path: Path) -> None:
    started: list[str] = []
    ended: list[str] = []

    @contextmanager
    def noting(choice: Choice, should_stop: Callable[[], bool]) -> Iterator[MethodRunner]:
        started.append(f"{choice.name} {choice.settings.get('trees', '')}".strip())
        with start_in_process(choice, should_stop) as at_work:
            yield at_work
        ended.append(started[-1])

    tables_of_run = tables(tmp_path)
    tables_of_run["attacks"] = []
    tables_of_run["generation"]["attacks"] = [
        {"name": "trace-figures"},
        {"name": "trace-forest", "trees": 3},
        {"name": "trace-forest", "trees": 4, "label": "four"},
    ]
    folder = RunFolder(tmp_path / "run")
    folder.create(overwrite=False)
    record = runner.run(scenario(**tables_of_run), folder, Silent(), command="test", earlier=None, start=noting)
    assert started == ["trace-figures", "trace-forest 3", "trace-forest 4"]
    assert len(ended) == len(started)
    assert {finding.failure for finding in record.arms[0].findings} == {""}


@pytest.mark.slow
def test_the_record_is_the_same_wherever_traces_are_attacked(scenario: Build, tmp_path: Path) -> None:
    own = tables(tmp_path)
    own["attacks"] = []
    own["generation"]["attacks"] = [{"name": "trace-forest", "trees": 5}, {"name": "trace-mean"}]
    own["generation"]["candidates"] = 4
    own["data"]["test_fraction"] = 0.5
    found = []
    for name, start in (("here", start_in_process), ("apart", start_in_subprocess)):
        folder = RunFolder(tmp_path / name)
        folder.create(overwrite=False)
        record = runner.run(scenario(**own), folder, Silent(), command="test", earlier=None, start=start)
        found.append([own.model_copy(update={"seconds": 0.0}) for own in record.arms[0].findings])
    assert found[0] == found[1]
    assert not [finding.failure for finding in found[0] if finding.failure]
