"""code-readout: infer the used codes from a codebook's gradient, then reconstruct images with only these codes.

A set is recovered layer by layer and head by head. The record's `extras` give its recall (share of the active codes
that were recovered) and precision (share of the recovered codes that were active). If only the task trains the codebook
(`loss = "base"`), codes at positions that no later layer reads, such as patches behind the last attention, stay hidden.
Under noise a row counts as active if noise of the median row's scale would reach its norm about once per codebook,
which needs more than half of the codes to be unused.

Idea: a code that no position chose has a gradient of exactly zero. With all unused codes disabled the true image is
    still a solution, and most wrong guesses are not.
Equation: dL/de_c = (1/k) sum of dL/do over the positions that chose code c; exactly 0 if no position did.
Assumes: honest-but-curious server, a gradient in which a codebook is shared. Labels and masks as `inversion` needs.
Recovers: the set of used codes of each codebook, then images and everything else that the attack `inversion` recovers.
Fails: many codes in a batch, since the set does not show which position chose which code; codes at positions that the
    loss does not depend on. Under noise, only rows clearly above the median row count as used. A set with fewer codes
    than a position uses restricts nothing.
Source: codebook features: Tamkin, Taufeeque, Goodman 2023, arXiv 2310.17230, which describes no attack.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, cast, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.codebooks._codes import code_gradients, why_no_codes
from attacks.core.fired_rows import find_fired_rows
from attacks.core.outlooks import GRADIENTS_OF_A_STEP, outlook_of
from attacks.core.results import no_examples, no_guess
from fedsim.components.bottleneck.codebook import codebooks
from fedsim.core import registry
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack, CostEstimate, Effort, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Config, Observation, OnStep, Reconstruction, Step

_NAME = "code-readout"
_MOST_NAMED = 40


class CodeReadoutConfig(Config):
    """Settings of code-readout."""

    inversion: str = Field(default="dropout-inversion", description="attack that searches the images")
    max_iterations: int = Field(
        default=2000, ge=0, description="about how many gradients that attack may take; 0: read codes only"
    )


@final
@attack(
    _NAME,
    summary="codes from rows of a codebook's gradient, then an inversion with them",
    tier="research",
    related="2310.17230",
)
class CodeReadout(Attack[CodeReadoutConfig]):
    """Infers the set of used codes of every codebook, then searches images that use only these codes."""

    effort: ClassVar[Effort] = "descent"
    example: ClassVar[Tables] = {"components": [{"name": "codebook", "at": ["2"], "codes": 40, "active": 2}]}

    @classmethod
    def settings_for_budget(cls, gradients: int) -> dict[str, Any]:
        """Return this number of iterations."""
        return {"max_iterations": gradients}

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse models without a codebook, updates without a codebook's gradient, and several local steps."""
        return why_no_codes(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect the steps of a matching attack."""
        gradients = GRADIENTS_OF_A_STEP * self.config.max_iterations
        return outlook_of(observation, gradients, 0.33, "the codes that were used leave few wrong guesses")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Infer the used codes, then run the inner attack restricted to these codes."""
        fired = {place: find_fired_rows(gradient) for place, gradient in code_gradients(observation).items()}
        guess = self._invert(_restrict_codes(observation, fired), generator, on_step)
        counts = {f"codes read at '{place}'": float(rows.sum()) for place, rows in fired.items()}
        notes = (f"codes at '{place}': {_format_codes(rows)}" for place, rows in fired.items())
        readings = {**guess.extras, **{f"codebook.{place}": rows for place, rows in fired.items()}}
        return replace(
            guess, diagnostics={**guess.diagnostics, **counts}, notes=(*guess.notes, *notes), extras=readings
        )

    def _invert(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        if not self.config.max_iterations:
            on_step(Step(0, 1, 1, 0.0, 0.0, no_examples(observation)))
            return no_guess(observation, "codes read off", notes=("only codes are read, no image",))
        if self.config.inversion == _NAME:
            raise NotApplicable("attack 'code-readout': 'inversion' names this attack itself; choose another")
        method = registry.get("attack", self.config.inversion)
        settings = cast("type[Attack[Any]]", method.make).settings_for_budget(self.config.max_iterations)
        return method.make(method.config.model_validate(settings))(observation, generator, on_step)


def _restrict_codes(observation: Observation, fired: Mapping[str, Tensor]) -> Observation:
    """Return the observation with a copy of its model in which unused codes cannot be chosen."""
    model = observation.working_copy()
    for place, layer in codebooks(model).items():
        rows = fired.get(place)
        if rows is not None and int(rows.sum(1).min()) >= layer.active:
            barred = torch.zeros(rows.shape).masked_fill(~rows, -torch.inf)
            layer.rankings.append(barred.add)
    return replace(observation, model=model)


def _format_codes(rows: Tensor) -> str:
    """Format codes as group:code; above `_MOST_NAMED` codes, only their number."""
    named = [f"{group}:{code}" for group, code in rows.nonzero().tolist()]
    return ", ".join(named) if len(named) <= _MOST_NAMED else f"{len(named)} of {rows.numel()}"
