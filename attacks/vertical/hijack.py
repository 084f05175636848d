"""hijack: return crafted gradients that train the party's bottom into the attacker's latent space.

Idea: a party trusts the returned gradients; gradients of a critic pull its activations towards the attacker's code.
Equation: pilot p and decoder d on public x: min |d(p(x)) - x|^2; critic D with penalty w (|dD/dz| - 1)^2 between p(x)
    and h; the attacker returns the gradient of -mean D(h); the answer is d(h).
Assumes: public examples of the same kind; the party applies the returned gradients.
Recovers: inputs, once the bottom matches the pilot.
Fails: few steps; deep codes oscillate; the model's accuracy stays at chance meanwhile, which a party can notice.
Source: Pasquini et al. 2021, arXiv 2012.02670 (FSHA); sizes, and the rate at which gradients are sent, are chosen here.
"""

from __future__ import annotations

import copy
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from attacks.core.training import NetworkTraining
from attacks.vertical._decoding import critic, decoder
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.registry import attack
from fedsim.core.types import Config
from fedsim.questions.vertical.hooks import CutSteering
from fedsim.questions.vertical.types import CutKnowledge, CutView, Evidence


class HijackConfig(Config):
    """Settings of hijack."""

    learning_rate: float = Field(default=1e-3, gt=0)
    penalty: float = Field(default=10.0, ge=0, description="w, of slopes of the critic other than 1")
    batch_size: int = Field(default=64, ge=2, description="public examples of a step")


@final
@attack(
    "hijack",
    summary="inputs through a bottom that is steered into the attacker's space",
    tier="core",
    paper="2012.02670",
    fidelity="variant",
    deviates="small networks, Adam at the party, penalty 10",
    paper_steps=(
        ("adversarial pull of the features to the attacker's space", "Hijack.steer"),
        ("decoder of the features", "Hijack.search"),
    ),
    aliases=("fsha",),
)
class Hijack(CutSteering[HijackConfig]):
    """Steers the bottom to the pilot's code."""

    reads: ClassVar[Evidence] = "embeddings"
    needs: ClassVar[frozenset[CutKnowledge]] = frozenset({"architecture", "public-data"})

    def begin(self, view: CutView, generator: torch.Generator) -> None:
        """Build pilot, decoder and critic."""
        if view.public is None or view.architecture is None:
            raise NotApplicable("it needs public examples, and how the bottom is built")
        self._public, self._pilot = view.public, copy.deepcopy(view.architecture).train()
        with seeding.isolate_randomness(generator.initial_seed()):
            self._decoder, self._critic = decoder(view.width, view.shape), critic(view.width, 2)
        self._coder = NetworkTraining([self._pilot, self._decoder], self.config.learning_rate)
        self._judge = NetworkTraining([self._critic], self.config.learning_rate)

    def steer(self, sent: Tensor, generator: torch.Generator) -> Tensor:
        """Return the gradient that makes the activations resemble the pilot's code, shape (B, width)."""
        rows = torch.randint(len(self._public), (self.config.batch_size,), generator=generator)
        code = self._pilot(self._public[rows])
        self._coder.descend(F.mse_loss(self._decoder(code), self._public[rows]))
        code = code.detach()[torch.randint(len(code), (len(sent),), generator=generator)]
        gap = self._critic(sent).mean() - self._critic(code).mean()
        self._judge.descend(gap + self.config.penalty * _roughness(self._critic, sent, code, generator))
        moved = sent.clone().requires_grad_()
        return torch.autograd.grad(-self._critic(moved).mean(), moved)[0]

    def search(self, view: CutView, generator: torch.Generator) -> Tensor:
        """Return the decoded vectors, shape (N, *shape)."""
        return self._decoder(view.sent_activations(view.rows))


def _roughness(judge: nn.Module, sent: Tensor, code: Tensor, generator: torch.Generator) -> Tensor:
    """Return the gradient penalty: mean squared distance of the critic's gradient norms from 1, between two samples."""
    share = torch.rand((len(sent), 1), generator=generator, dtype=torch.double)
    mixture = (share * sent + (1 - share) * code).requires_grad_()
    (slopes,) = torch.autograd.grad(judge(mixture).sum(), mixture, create_graph=True)
    return (slopes.norm(dim=1) - 1).square().mean()
