"""distributed-dp: each client adds a share of the noise, and secure aggregation reveals only the sum.

A missing client's share is missing too. So m is the fewest clients in any sum that the server learns, less the
`colluding_clients` clients; below `secure_aggregation.threshold` the round is aborted. With a Poisson cohort or an
availability below 1 a cohort may be as small as 2, and m is 2. Participants are known to the server, so subsampling
gives no amplification. For a share of at least two steps, rounding each update equals rounding the noisy sum, up to a
relative error of about 1e-34. The probability that noise leaves `clipping_range` in the whole run must be below a
millionth of delta, which the printed delta does not include. A server circumvents the sum by sybils, or by a different
model for each client. Federations without `[secure_aggregation]`, and models with buffers that training changes, are
refused.

Idea: One share protects little; the sum carries all shares, and the server sees nothing else.
Equation: sum over clients of u_k min(1, S / ||u_k||) + N(0, (sigma S)^2 I / m), m the fewest clients in a revealed sum
Assumes: secure aggregation, whose threshold bounds m. Larger sums carry more noise than promised, never less.
Protects: all data of a client, with an epsilon: replacing an update moves the sum by at most 2S, so the guarantee has
    noise multiplier sigma / 2. Stochastic rounding after the noise, finer than half a share, costs less than
    exp(-2 pi^2 (share / step)^2) of the density; coarser rounding, and noise beyond the clipping range, are refused.
Fails: with more colluding clients than stated, or a server that circumvents secure aggregation.
Source: Dwork et al. 2006 (Our data, ourselves); Kairouz, Liu, Steinke 2021, arXiv 2102.06387.
"""

from __future__ import annotations

import math
from typing import final

from pydantic import Field
from torch import nn

from defenses.noise._client_level import PROBE, ClientBudget, ClientLevelDefense
from fedsim.core.hooks import HookContext, PublicFederation
from fedsim.core.registry import defense
from fedsim.core.types import MethodDescription, Update
from fedsim.core.types.effects import ClippedParts
from fedsim.privacy.upload import disturb, why_buffers_move

_STEPS_A_SHARE = 2.0
_CUT_OFF = 1e-6  # allowed probability of clipped noise in the whole run, in units of delta


class DistributedDpConfig(ClientBudget):
    """Settings of distributed differential privacy."""

    colluding_clients: int = Field(default=0, ge=0, description="clients that may reveal their noise to the server")


@final
@defense(
    "distributed-dp",
    summary="adds a share of the noise to each update of a secure sum",
    tier="core",
    paper="2102.06387",
    fidelity="variant",
    deviates="continuous Gaussian shares that are rounded replace the discrete Gaussian",
    paper_steps=(
        ("update clipped by the client", "DistributedDp.on_upload"),
        ("share of the noise by the fewest clients in a sum", "DistributedDp._share"),
        ("secure sum of rounded updates", "DistributedDp.on_upload"),
        ("discrete Gaussian noise", ""),
    ),
)
class DistributedDp(ClientLevelDefense[DistributedDpConfig]):
    """Client-level differential privacy against a server that sees only sums and knows the participants."""

    @property
    def against(self) -> str:
        """A server that sees only sums, and the colluding clients."""
        seen = "a server that sees nothing but secure sums"
        return (
            f"{seen}, and {self.config.colluding_clients} clients on its side"
            if self.config.colluding_clients
            else seen
        )

    def refuses(self, federation: PublicFederation, model: nn.Module) -> str | None:
        """Return why the guarantee would not hold, or None."""
        if not federation.hides_updates or federation.quantisation is None:
            return (
                "a single client's share of the noise protects nothing, and the server sees single updates. "
                "Add [secure_aggregation], or use local-dp"
            )
        if federation.smallest_sum <= self.config.colluding_clients:
            return (
                f"colluding_clients is {self.config.colluding_clients}, but a sum may hold {federation.smallest_sum} "
                "updates only. Expected fewer, or a larger cohort or threshold"
            )
        return (
            self.why_delta_is_large(federation)
            or self._why_rounding_shows(federation, model)
            or why_buffers_move(model, federation.probe(PROBE).inputs)
        )

    def on_upload(self, update: Update, context: HookContext) -> Update:
        """Return the clipped update with its share of the noise; every client has the same weight in the sum."""
        add_noise = self.config.noise_adder(context)
        return disturb(update, self.config.clip, self._share(context.federation), add_noise)

    def adaptive_view(self) -> MethodDescription:
        """Return clipping norm and noise; its scale on a mean depends on the number of clients."""
        return MethodDescription("distributed-dp", (ClippedParts(self.config.clip), *self.config.noise))

    def _why_rounding_shows(self, federation: PublicFederation, model: nn.Module) -> str | None:
        share, grid = self._share(federation), federation.quantisation
        if not share or grid is None:
            return None
        if share < _STEPS_A_SHARE * grid.step:
            return (
                f"a client's share of the noise, {share:.2g}, is below two steps of rounding, {grid.step:.2g} each. "
                "Raise secure_aggregation.levels, or add more noise"
            )
        entries = sum(p.numel() for p in model.parameters()) * federation.clients * federation.rounds
        from scipy.special import log_ndtr  # noqa: PLC0415 - listing methods need not wait for SciPy

        cut_off = math.log(2 * entries) + float(log_ndtr((self.config.clip - grid.clipping_range) / share))
        if cut_off <= math.log(_CUT_OFF * self.config.delta):
            return None
        return (
            f"a client's share of the noise, {share:.2g}, may leave secure_aggregation.clipping_range = "
            f"{grid.clipping_range:g}, where it is cut off. Widen the range, or add less noise"
        )

    def _share(self, federation: PublicFederation | None) -> float:
        fewest = 1 if federation is None else federation.smallest_sum - self.config.colluding_clients
        return self.multiplier(federation) * self.config.clip / math.sqrt(max(1, fewest))
