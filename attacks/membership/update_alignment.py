"""update-alignment: score an example by how well its gradient agrees with a client's updates.

Idea: an update points along the gradients of its examples. In high dimensions gradients of different examples are
    nearly orthogonal, so examples of a small batch stand out even in an untrained model.
Equation: cosine: mean over watched rounds of <g(x), u> / (|g(x)| |u|); inner-product: mean of <g(x), u>, with g(x) the
    gradient at the received weights and u the update (a gradient, or received minus trained weights).
Assumes: a server that sees single updates of one client, at least one of their tensors.
Recovers: a score for each candidate.
Fails: large batches; secure aggregation, which hides single updates; strong noise.
Source: Nasr, Shokri, Houmansadr 2019, arXiv 1812.00910 (gradients as a signal); FedMIA, Zhu et al. 2024, arXiv
    2402.06289 (the cosine), without its comparison with other clients.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, final

import torch
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from fedsim.core.hooks import ANY_LABELS, IMAGES_AND_TEXT
from fedsim.core.nets.gradients import gradient_of
from fedsim.core.registry import attack
from fedsim.core.types import Config, LabelKind, Modality, Tensors
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.types import MembershipObservation, Target, WatchedUpdate


class UpdateAlignmentConfig(Config):
    """Settings of the attack."""

    measure: Literal["cosine", "inner-product"] = Field(
        default="cosine", description="cosine: without the norm of the candidate's gradient; inner-product: with it"
    )


@final
@attack(
    "update-alignment",
    summary="how well a client's update agrees with the example's gradient",
    tier="core",
    paper="2402.06289",
    fidelity="variant",
    deviates="the cosine alone, without its comparison with other clients",
    paper_steps=(
        ("cosine of update and gradient of the example", "UpdateAlignment.score"),
        ("comparison with other clients' updates", ""),
    ),
)
class UpdateAlignment(MembershipAttack[UpdateAlignmentConfig]):
    """Scores by the agreement of a candidate's gradient with one client's updates."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT
    label_kinds: ClassVar[frozenset[LabelKind]] = ANY_LABELS
    target: ClassVar[Target] = "update"

    def not_applicable(self, observation: MembershipObservation) -> str | None:
        """Refuse updates without tensors."""
        if any(watched.update.tensors for watched in observation.updates):
            return None
        return "needs at least one tensor of an update; the server observes none"

    def score(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        """Return the agreement of each candidate with the updates."""
        agreements = [torch.stack(list(self._agreements(observation, watched))) for watched in observation.updates]
        return torch.stack(agreements).mean(0)

    def _agreements(self, observation: MembershipObservation, watched: WatchedUpdate) -> Iterator[Tensor]:
        update = torch.cat([tensor.flatten() for tensor in watched.update.tensors.values()]).double()
        candidates, names = observation.candidates, list(watched.update.tensors)
        for example, label in zip(candidates.inputs, candidates.labels, strict=True):
            gradient = _gradient(observation, watched.received_weights, names, example, label)
            agreement = gradient @ update
            if self.config.measure == "cosine":
                agreement = agreement / (gradient.norm() * update.norm()).clamp(min=torch.finfo(torch.double).tiny)
            yield agreement


def _gradient(
    observation: MembershipObservation, weights: Tensors, names: list[str], example: Tensor, label: Tensor
) -> Tensor:
    """Return the gradient of a single example's loss with respect to the named parameters, flat."""
    leaves = {name: weights[name].detach().requires_grad_() for name in names}
    output = functional_call(observation.model, {**weights, **leaves}, (example[None],))
    gradient = gradient_of(observation.loss(output, label[None]), leaves)
    return torch.cat([tensor.flatten() for tensor in gradient.values()]).double()
