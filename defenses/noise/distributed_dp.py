"""distributed-dp: each client adds a share of the noise, and secure aggregation reveals only the sum.

Idea: One share protects little; the sum carries all shares, and the server sees nothing else.
Equation: sum over clients of u_k min(1, S / ||u_k||) + N(0, (sigma S)^2 I / m), m the fewest clients in a revealed sum
Assumes: secure aggregation, whose threshold bounds m. Larger sums carry more noise than promised, never less.
Protects: all that a client has, with an epsilon: replacing an update moves the sum by at most 2S, so the guarantee has
    noise multiplier sigma / 2. Rounding after the noise, at random and finer than half a share, costs less than
    exp(-2 pi^2 (share / step)^2) of the density; coarser rounding, and noise beyond the clipping range, are refused.
Fails: with more colluding clients than stated, or a server that gets around secure aggregation.
Source: Dwork et al. 2006 (Our data, ourselves); Kairouz, Liu, Steinke 2021, arXiv 2102.06387.
"""

from __future__ import annotations

import math
from typing import ClassVar, final

from pydantic import Field
from torch import nn

from fedsim.core.hooks import IMAGES_AND_TEXT, Defense, HookContext, Place, Rules
from fedsim.core.registry import defense
from fedsim.core.types import Mechanism, Modality, PublicKnowledge, Update
from fedsim.privacy.budget import Budget
from fedsim.privacy.upload import disturb, why_buffers_move

_PROBE = 3  # examples in the batch that tests the model
_SENSITIVITY = 2.0  # in units of the clipping norm
_STEPS_A_SHARE = 2.0
_CUT_OFF = 1e-6  # allowed probability of clipped noise in the whole run, in units of delta


class DistributedDpConfig(Budget):
    """Settings of distributed differential privacy."""

    clip: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="S: largest norm of an update over all parameters"
    )
    colluding: int = Field(default=0, ge=0, description="clients that may tell the server what noise they added")


@final
@defense(
    "distributed-dp",
    summary="adds a share of the noise to each update of a secure sum",
    paper="2102.06387",
)
class DistributedDp(Defense[DistributedDpConfig]):
    """Client-level differential privacy against a server that sees only sums and knows who took part."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT
    place: ClassVar[Place] = "noise"

    def refuses(self, rules: Rules, model: nn.Module) -> str | None:
        """Return why the guarantee would not hold, or None where it holds."""
        if not rules.hides_updates or rules.quantisation is None:
            return (
                "one client's share of the noise protects nothing, and the server sees single updates. Add "
                "[secure_aggregation], or use local-dp"
            )
        if rules.smallest_sum <= self.config.colluding:
            return (
                f"colluding is {self.config.colluding}, but a sum may hold {rules.smallest_sum} updates only. Expected "
                "fewer, or a larger cohort or threshold"
            )
        if self.config.delta * rules.clients >= 1:
            return f"delta is {self.config.delta:g}, expected below 1/{rules.clients}, the number of clients"
        return self._why_rounding_shows(rules, model) or why_buffers_move(model, rules.probe(_PROBE).inputs)

    def on_upload(self, update: Update, here: HookContext) -> Update:
        """Return the clipped update with its share of the noise; every client has the same weight in the sum."""
        return disturb(update, self.config.clip, self._share(here.rules), here.generator)

    def mechanism(self, rules: Rules) -> Mechanism | None:
        """Return one Gaussian mechanism per round."""
        multiplier = self._multiplier(rules)
        if not multiplier:
            return None
        against = "a server that sees nothing but secure sums"
        if self.config.colluding:
            against = f"{against}, and {self.config.colluding} clients on its side"
        return Mechanism(
            unit="client",
            adjacency="replace",
            noise_multiplier=multiplier / _SENSITIVITY,
            sampling_rate=1.0,
            steps=1,
            delta=self.config.delta,
            against=against,
        )

    def adaptive_view(self) -> PublicKnowledge:
        """Return clipping norm and noise; its scale on a mean depends on the number of clients."""
        return PublicKnowledge(
            "distributed-dp", {"noise_law": "gaussian", "clip": self.config.clip, **self.config.facts}
        )

    def _why_rounding_shows(self, rules: Rules, model: nn.Module) -> str | None:
        share, grid = self._share(rules), rules.quantisation
        if not share or grid is None:
            return None
        if share < _STEPS_A_SHARE * grid.step:
            return (
                f"a client's share of the noise, {share:.2g}, is below two steps of rounding, {grid.step:.2g} each. "
                "Raise secure_aggregation.levels, or add more noise"
            )
        entries = sum(p.numel() for p in model.parameters()) * rules.clients * rules.rounds
        from scipy.special import log_ndtr  # noqa: PLC0415 - listing methods need not wait for SciPy

        cut_off = math.log(2 * entries) + float(log_ndtr((self.config.clip - grid.clipping_range) / share))
        if cut_off <= math.log(_CUT_OFF * self.config.delta):
            return None
        return (
            f"a client's share of the noise, {share:.2g}, may leave secure_aggregation.clipping_range = "
            f"{grid.clipping_range:g}, where it is cut off. Widen the range, or add less noise"
        )

    def _share(self, rules: Rules | None) -> float:
        fewest = 1 if rules is None else rules.smallest_sum - self.config.colluding
        return self._multiplier(rules) * self.config.clip / math.sqrt(max(1, fewest))

    def _multiplier(self, rules: Rules | None) -> float:
        return self.config.multiplier(1.0, 1 if rules is None else rules.rounds, sensitivity=_SENSITIVITY)
