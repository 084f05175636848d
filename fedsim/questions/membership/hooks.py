"""Base class of membership attacks."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, final

import torch
from torch import Tensor

from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.grants import Grants
from fedsim.core.types.configured import ConfigT, ConfiguredMethod
from fedsim.questions.membership.types import MembershipObservation, ShadowPlan, Target


class MembershipAttack(ConfiguredMethod[ConfigT]):
    """Scores each candidate for membership. Subclasses implement `score`.

    Attributes:
        target: model: members are the training examples of all clients; update: of the client that sent it.
    """

    target: ClassVar[Target] = "model"

    @classmethod
    def missing_grants(cls, grants: Grants) -> str | None:
        """Return an error text about the missing view; None if the grants suffice."""
        if cls.target == "model" or grants.view == "single-update":
            return None
        return (
            f"scores the updates of a single client, but threat.view = '{grants.view}'. Set "
            "threat.view = 'single-update', or use an attack on the model."
        )

    def plan(self) -> ShadowPlan | None:
        """Return the plan of shadow models that the observation must contain, or None."""
        return None

    def not_applicable(self, observation: MembershipObservation) -> str | None:
        """Return why this attack does not fit the observation, or None if it fits."""
        return None

    @abstractmethod
    def score(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        """Return a score per candidate, shape (N,), higher for likely members."""

    @final
    def __call__(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        """Check the observation, then score.

        Raises:
            NotApplicable: the attack does not fit; with the reason.
            FedsimError: the scores have another shape, or contain NaN.
        """
        reason = observation.task.refuses_method(self) or self.not_applicable(observation)
        if reason is not None:
            raise NotApplicable(reason)
        return self.check_scores(self.score(observation, generator), observation)

    @staticmethod
    def check_scores(scores: Tensor, observation: MembershipObservation) -> Tensor:
        """Return detached scores after checking shape and values.

        Raises:
            FedsimError: the scores have another shape, or contain NaN.
        """
        if scores.shape != (len(observation.candidates),):
            raise FedsimError(
                f"the scores have shape {tuple(scores.shape)}, expected a score per candidate: "
                f"({len(observation.candidates)},)."
            )
        if bool(scores.isnan().any()):
            raise FedsimError("a score is not a number: the model's outputs may not be finite.")
        return scores.detach()
