"""Searches under several hypotheses about the client's training, one after the other; the lowest objective wins."""

from __future__ import annotations

from abc import abstractmethod

from attacks.core.matching.attack import MaskSearchT, MatchingAttack
from attacks.core.matching.descent import RestartResult, VictimGroup
from attacks.core.matching.known_defense import InformedAttack
from fedsim.core.types import Observation


class HypothesesAttack(InformedAttack[MaskSearchT]):
    """A matching attack that tries several hypotheses about the client's batch. Subclasses define `hypotheses`."""

    @abstractmethod
    def hypotheses(self, observation: Observation) -> list[MatchingAttack[MaskSearchT]]:
        """Return the searches to run, each with the settings of this attack."""

    @abstractmethod
    def count_hypotheses(self, observation: Observation) -> int:
        """Return the number of hypotheses; it must suit any observation."""

    def count_gradients(self, observation: Observation) -> float:
        """Count the iterations of all hypotheses, which are searched one after the other."""
        return self.count_hypotheses(observation) * super().count_gradients(observation)

    def run_search(self, victims: VictimGroup) -> tuple[list[RestartResult], str]:
        """Search under every hypothesis.

        A row of hypothesis i gets the start number i * restarts + its restart.
        """
        rows: list[RestartResult] = []
        path, trials, iterations = "", self.config.restarts, self.config.max_iterations
        hypotheses = self.hypotheses(victims.observations[0])
        total = len(hypotheses) * iterations
        for index, hypothesis in enumerate(hypotheses):
            earlier = index * trials
            part = victims.as_part(restarts=earlier, done=index * iterations, iterations=total)
            results, path = hypothesis.run_search(part)
            for row in results:
                row.start += earlier
            rows += results
        return rows, path

    def hypothesis_of(self, row: RestartResult) -> int:
        """Return the index of the hypothesis of a row."""
        return row.start // self.config.restarts
