"""Searches under several hypotheses: every one is run, its starts are numbered on, and progress goes on."""

from types import SimpleNamespace
from typing import Any, cast

import torch

from attacks.core.matching.attack import MatchingAttack, MatchingConfig, VictimGroup
from attacks.core.matching.descent import RestartResult
from attacks.core.matching.hypotheses import HypothesesAttack
from fedsim.core.types import Observation, Step

TRIALS, ITERATIONS = 2, 5


class Told:
    """A search that ends at once, with one row a trial."""

    def __init__(self, path: str) -> None:
        self.path = path

    def run_search(self, victims: VictimGroup) -> tuple[list[RestartResult], str]:
        victims.on_steps[0](Step(0, 1, ITERATIONS, 1.0, 1.0, torch.zeros(0)))
        return [
            RestartResult(0, start, torch.zeros(1), (), stop_reason=self.path) for start in range(TRIALS)
        ], self.path


class Two(HypothesesAttack[MatchingConfig]):
    def plan(self, observation: Observation) -> Any:
        raise NotImplementedError

    def hypotheses(self, observation: Observation) -> list[MatchingAttack[MatchingConfig]]:
        return cast("list[MatchingAttack[MatchingConfig]]", [Told("one"), Told("other")])

    def count_hypotheses(self, observation: Observation) -> int:
        return 2


def test_rows_of_every_hypothesis_carry_its_number() -> None:
    attack = Two(MatchingConfig(restarts=TRIALS, max_iterations=ITERATIONS))
    steps: list[Step] = []
    observation = cast("Observation", SimpleNamespace())
    rows, path = attack.run_search(VictimGroup([observation], [torch.zeros(1)], [torch.Generator()], [steps.append]))
    assert [row.start for row in rows] == [0, 1, 2, 3]
    assert [attack.hypothesis_of(row) for row in rows] == [0, 0, 1, 1]
    assert [row.stop_reason for row in rows] == ["one", "one", "other", "other"]
    assert path == "other"
    assert [(step.restart, step.iteration, step.iterations) for step in steps] == [(0, 1, 10), (2, 6, 10)]
    single = MatchingAttack.count_gradients(attack, observation)
    assert attack.count_gradients(observation) == 2 * single
