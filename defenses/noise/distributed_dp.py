"""Distributed differential privacy: every client adds a share of the noise, and secure aggregation reveals the sum.

    sum over the clients of u_k min(1, S / ||u_k||) + N(0, (sigma S)^2 I / m)

where m is the fewest clients in a sum that the server learns: secure aggregation aborts below its threshold. With more
clients in the sum there is more noise than promised, never less. Replacing one client's update moves the sum by 2S, so
the noise multiplier of the guarantee is sigma / 2. Papers: Dwork et al. 2006 (Our data, ourselves); Kairouz, Liu,
Steinke 2021, arXiv 2102.06387.

Updates are rounded to integers after the noise. At random and much finer than a share of the noise, that is as good as
rounding the sum: the difference is below exp(-2 pi^2 (share / step)^2) relative to the density. Coarser rounding, and
noise that the clipping range cuts off, are refused.
"""

from __future__ import annotations

import math
from typing import ClassVar, final

from pydantic import Field
from torch import nn

from fedsim.core.hooks import IMAGES_AND_TEXT, Defense, Here, Place, Rules
from fedsim.core.registry import defense
from fedsim.core.types import Mechanism, Modality, PublicKnowledge, Update
from fedsim.privacy.budget import Budget
from fedsim.privacy.upload import disturbed, why_buffers_move

_PROBE = 3  # examples of a batch on which the model is tried
_SENSITIVITY = 2.0  # over the clipping norm
_STEPS_A_SHARE = 2.0
_CUT_OFF = 1e-6  # probability that noise meets the clipping range in the whole run, over delta


class DistributedDpConfig(Budget):
    """Settings of distributed differential privacy."""

    clip: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="S: largest norm of an update over all parameters"
    )
    colluding: int = Field(default=0, ge=0, description="clients that may tell the server what noise they added")


@final
@defense("distributed-dp", summary="clients share the noise that only their secure sum shows", paper="2102.06387")
class DistributedDp(Defense[DistributedDpConfig]):
    """Client-level differential privacy against a server that sees sums alone, and knows who took part."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT
    place: ClassVar[Place] = "noise"

    def refuses(self, rules: Rules, model: nn.Module) -> str | None:
        """Return why the guarantee would not hold, or None when it does."""
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

    def on_upload(self, update: Update, here: Here) -> Update:
        """Return the clipped update with a share of the noise; every client counts the same in the sum."""
        return disturbed(update, self.config.clip, self._share(here.rules), here.generator)

    def mechanism(self, rules: Rules) -> Mechanism | None:
        """Return one Gaussian mechanism a round."""
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
        """Return clipping norm and noise; its scale on a mean depends on how many clients are in it."""
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
