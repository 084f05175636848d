"""local-dp: the client clips its update and adds Gaussian noise before sending it.

The update is a vector over all parameters, and neighbours have adjacency `replace`. Accounting with sensitivity S
would claim a guarantee that needs twice the noise. It states 1 example and a loss of 0, sends buffers as received,
and replaces an update that is zero or not finite by noise: refusing it would reveal that. Sampling does not help, since
the server knows the participants. In large models the noise dominates: its norm is sigma S sqrt(P). With sigma = 2 a
single round costs epsilon 4.38 at delta 1e-5. A common mistake is to apply the formula of one round to each of several
rounds without composing them. As a Flower mod it keeps the cost of every call in the client's `Context.state`, as
(noise multiplier over the sensitivity, rate, steps); `fedsim.privacy.history.spent` returns it. Running statistics of
batch normalisation are sent as received, or with ``running_statistics = "noised"`` clipped and noised jointly with the
weights at the same epsilon. Models with other buffers that training changes are refused.

Idea: The noise hides every client's update, so no other party has to be trusted.
Equation: u' = u min(1, S / ||u||) + N(0, (sigma S)^2 I)
Assumes: any two updates are neighbours, at most 2S apart, so the guarantee has noise multiplier sigma / 2.
Protects: all data of a client, with an epsilon, against everybody who sees its upload, including the server.
Fails: at accuracy: the mean of m clients has noise sigma S / sqrt(m) per entry, where central noise needs sigma S / m.
    Many rounds add up.
Source: Geyer, Klein, Nabi 2017, arXiv 1712.07557, made local; epsilon: Balle, Wang 2018, arXiv 1805.06530.
"""

from __future__ import annotations

from dataclasses import replace
from typing import final

from pydantic import Field
from torch import nn

from defenses.noise._client_level import PROBE, ClientBudget, ClientLevelDefense
from fedsim.core.hooks import Distortion, HookContext, PublicFederation
from fedsim.core.registry import defense
from fedsim.core.types import MethodDescription, Tensors, Update
from fedsim.core.types.effects import AddedNoise, Clipped
from fedsim.privacy.batch_norm import RunningStatistics, is_running_statistic
from fedsim.privacy.upload import clip_with_derivative, disturb, why_buffers_move


class LocalDpConfig(ClientBudget):
    """Settings of local differential privacy."""

    running_statistics: RunningStatistics = Field(
        default="received",
        description="running means and variances of batch normalisation: the server's values are sent back, or they "
        "are part of the clipped and noised update",
    )


@final
@defense(
    "local-dp",
    summary="the client clips its update and adds noise to it, with an epsilon",
    tier="core",
    paper="1805.06530",
    fidelity="variant",
    deviates="its accountant, for updates that every client clips and noises",
    paper_steps=(
        ("noise on a clipped update", "LocalDp.on_upload"),
        ("epsilon of the Gaussian mechanism without slack", "fedsim.privacy.accounting.gaussian_epsilon"),
    ),
)
class LocalDp(ClientLevelDefense[LocalDpConfig]):
    """Client-level differential privacy against the server and all observers of the upload."""

    @property
    def against(self) -> str:
        """The server and all observers of the upload."""
        return "the server and everybody else with access to a client's uploads"

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Return why the guarantee would not hold, or None."""
        return self.why_delta_is_large(federation) or why_buffers_move(
            model, federation.probe(PROBE).inputs, is_allowed=is_running_statistic
        )

    def on_upload(self, update: Update, context: HookContext) -> Update:
        """Return the private update, with a single example and a loss of 0: the true figures depend on the data."""
        add_noise = self.config.noise_adder(context)
        noised = self._noised_buffers(update)
        private = disturb(
            replace(update, tensors={**update.tensors, **noised}),
            self.config.clip,
            self.multiplier(context.federation) * self.config.clip,
            add_noise,
        )
        return replace(
            private,
            tensors={name: private.tensors[name] for name in update.tensors},
            buffers={**private.buffers, **{name: private.tensors[name] for name in noised}},
        )

    def _noised_buffers(self, update: Update) -> Tensors:
        if self.config.running_statistics == "received":
            return {}
        return {name: change for name, change in update.buffers.items() if is_running_statistic(name)}

    def describe_distortion(self, federation: PublicFederation, sent: Tensors) -> Distortion | None:
        """Return clipping and noise; None for noised running statistics, which the clipped norm includes."""
        if self.config.running_statistics == "noised":
            return None
        clip, deviation = self.config.clip, self.multiplier(federation) * self.config.clip
        return Distortion(
            change=lambda tensors: clip_with_derivative(tensors, clip),
            noise=lambda tensors: {name: t.new_ones(t.shape) * deviation for name, t in tensors.items()},
        )

    def noise_deviation(self, federation: PublicFederation) -> float | None:
        """Return the standard deviation of the noise, also if it follows from a budget."""
        return self.multiplier(federation) * self.config.clip or None

    def adaptive_view(self) -> MethodDescription:
        """Return clipping norm and noise."""
        clip, private = self.config.clip, self.config.noise
        added = (AddedNoise(part.law, part.multiplier * clip) for part in private if part.multiplier is not None)
        return MethodDescription("local-dp", (Clipped(clip), *private, *added))
