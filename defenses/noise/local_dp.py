"""local-dp: the client clips its update and adds Gaussian noise before sending it.

Idea: The noise hides every client's update, so no other party has to be trusted.
Equation: u' = u min(1, S / ||u||) + N(0, (sigma S)^2 I)
Assumes: any two updates are neighbours, at most 2S apart, so the guarantee has noise multiplier sigma / 2.
Protects: all that a client has, with an epsilon, from all who see its upload, including the server.
Fails: at accuracy: the mean of m clients has noise sigma S / sqrt(m) per entry, where central noise needs sigma S / m.
    Many rounds add up.
Source: Geyer, Klein, Nabi 2017, arXiv 1712.07557, made local; epsilon: Balle, Wang 2018, arXiv 1805.06530.
"""

from __future__ import annotations

from typing import ClassVar, final

from pydantic import Field
from torch import nn

from fedsim.core.hooks import IMAGES_AND_TEXT, Blur, Defense, HookContext, Place, Rules
from fedsim.core.registry import defense
from fedsim.core.types import Mechanism, Modality, PublicKnowledge, Tensors, Update
from fedsim.privacy.budget import Budget
from fedsim.privacy.upload import clip_with_derivative, disturb, why_buffers_move

_PROBE = 3  # examples in the batch that tests the model
_SENSITIVITY = 2.0  # in units of the clipping norm


class LocalDpConfig(Budget):
    """Settings of local differential privacy."""

    clip: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="S: largest norm of an update over all parameters"
    )


@final
@defense("local-dp", summary="the client clips its update and adds noise to it, with an epsilon", paper="1805.06530")
class LocalDp(Defense[LocalDpConfig]):
    """Client-level differential privacy against all who see the upload."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT
    place: ClassVar[Place] = "noise"

    def refuses(self, rules: Rules, model: nn.Module) -> str | None:
        """Return why the guarantee would not hold, or None where it holds."""
        if self.config.delta * rules.clients >= 1:
            return f"delta is {self.config.delta:g}, expected below 1/{rules.clients}, the number of clients"
        return why_buffers_move(model, rules.probe(_PROBE).inputs)

    def on_upload(self, update: Update, here: HookContext) -> Update:
        """Return the private update, with one example and a loss of 0: the true figures depend on the data."""
        return disturb(update, self.config.clip, self._multiplier(here.rules) * self.config.clip, here.generator)

    def blur(self, rules: Rules, sent: Tensors) -> Blur:
        """Return clipping and noise."""
        clip = self.config.clip
        return Blur(
            change=lambda tensors: clip_with_derivative(tensors, clip),
            noise=lambda tensors: {n: t.new_ones(t.shape) * self._multiplier(rules) * clip for n, t in tensors.items()},
        )

    def mechanism(self, rules: Rules) -> Mechanism | None:
        """Return one Gaussian mechanism per round."""
        multiplier = self._multiplier(rules)
        if not multiplier:
            return None
        return Mechanism(
            unit="client",
            adjacency="replace",
            noise_multiplier=multiplier / _SENSITIVITY,
            sampling_rate=1.0,
            steps=1,
            delta=self.config.delta,
            against="the server and everybody else who sees a client's uploads",
        )

    def adaptive_view(self) -> PublicKnowledge:
        """Return clipping norm and noise."""
        facts = {"noise_law": "gaussian", "clip": self.config.clip, **self.config.facts}
        if "noise_multiplier" in facts:
            facts["noise_scale"] = self._multiplier(None) * self.config.clip
        return PublicKnowledge("local-dp", facts)

    def _multiplier(self, rules: Rules | None) -> float:
        return self.config.multiplier(1.0, 1 if rules is None else rules.rounds, sensitivity=_SENSITIVITY)
