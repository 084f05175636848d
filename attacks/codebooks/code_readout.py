"""Codes that fired in a batch, read off the rows of a codebook's gradient; the inversion then uses no others.

A code e_c that no position chose has dL/de_c = 0 exactly; one that fired gets (1 / k) sum of dL/do. So the rows that
are not zero are the set of codes behind the update, layer by layer and head by head (codebook features: Tamkin,
Taufeeque, Goodman 2023, arXiv 2310.17230). The inversion runs on a model in which all other codes are disabled, which
leaves the truth where it was and takes most wrong guesses away.

Threat model: honest-but-curious server, one gradient. Codes at positions that nobody reads, such as tokens behind the
last attention, show only if the codebook's own loss moves them. Under noise every row carries something: rows count
whose length independent noise of the median row's scale would reach once in a codebook. A set that is too small to
choose k codes from restricts nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.codebooks._codes import code_gradients, why_no_codes
from attacks.core.fired_rows import fired_rows
from attacks.core.results import no_examples, no_guess
from fedsim.components.bottleneck.codebook import codebooks
from fedsim.core import registry
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack
from fedsim.core.registry import attack
from fedsim.core.types import Config, Observation, OnStep, Reconstruction, Step

_NAME = "code-readout"
_MOST_NAMED = 40


class CodeReadoutConfig(Config):
    """Settings of the read-out."""

    inversion: str = Field(default="dropout-inversion", description="attack that searches the images")
    iterations: int = Field(default=2000, ge=0, description="about so many gradients for it; 0 reads codes alone")


@final
@attack(_NAME, summary="codes from rows of a codebook's gradient, then an inversion with them", related="2310.17230")
class CodeReadout(Attack[CodeReadoutConfig]):
    """A set of codes for every codebook, and images that use them."""

    @classmethod
    def within(cls, gradients: int) -> dict[str, Any]:
        """Return so many iterations."""
        return {"iterations": gradients}

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse models without codebooks, codebooks that are not shared, and several steps."""
        return why_no_codes(observation)

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Read the codes, then invert with them."""
        fired = {place: fired_rows(gradient) for place, gradient in code_gradients(observation).items()}
        guess = self._inverted(_restricted(observation, fired), generator, on_step)
        counts = {f"codes read at '{place}'": float(rows.sum()) for place, rows in fired.items()}
        notes = (f"codes at '{place}': {_listed(rows)}" for place, rows in fired.items())
        found = {**guess.found, **{f"codebook.{place}": rows for place, rows in fired.items()}}
        return replace(guess, facts={**guess.facts, **counts}, notes=(*guess.notes, *notes), found=found)

    def _inverted(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        if not self.config.iterations:
            on_step(Step(0, 1, 1, 0.0, 0.0, no_examples(observation)))
            return no_guess(observation, "codes read off", notes=("only codes are read, no image",))
        if self.config.inversion == _NAME:
            raise NotApplicable("attack 'code-readout': inversion names this attack itself; choose another")
        method = registry.get("attack", self.config.inversion)
        settings = cast("type[Attack[Any]]", method.make).within(self.config.iterations)
        return method.make(method.config.model_validate(settings))(observation, generator, on_step)


def _restricted(observation: Observation, fired: Mapping[str, Tensor]) -> Observation:
    """Return the observation with a copy of its model in which only these codes can fire."""
    model = copy.deepcopy(observation.model)
    for place, layer in codebooks(model).items():
        rows = fired.get(place)
        if rows is not None and int(rows.sum(1).min()) >= layer.active:
            barred = torch.zeros(rows.shape).masked_fill(~rows, -torch.inf)
            layer.rankings.append(barred.add)
    return replace(observation, model=model)


def _listed(rows: Tensor) -> str:
    """Name codes as group:code, or only say how many where they are too many."""
    named = [f"{group}:{code}" for group, code in rows.nonzero().tolist()]
    return ", ".join(named) if len(named) <= _MOST_NAMED else f"{len(named)} of {rows.numel()}"
