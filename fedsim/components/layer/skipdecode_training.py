"""skipdecode-training: in training, tokens skip the layers that decoder `skipdecode` will skip for them.

Idea: a model learns to work without the layers that its decoder will not run, under the same schedule.
Equation: h_t passes layer l unchanged if l is not in A(t - P), the layers of generated token t - P; tokens t < P, in
    the positions of a prompt, pass through all layers.
Assumes: blocks with Llama's names; examples whose first P tokens act as the prompt.
Leaks: skipped layers have gradients from the prompt and the first tokens after it alone, so they reveal no later text;
    the bottom and the top layers' gradients depend on the whole text.
Fails: for texts much longer than in training; without the schedule the model loses quality.
Source: Del Corro et al. 2023, arXiv 2307.02628; the loss includes the prompt's tokens, as for any client.
"""

from __future__ import annotations

from typing import Any, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.core.blocks import blocks_of, states_in, with_states
from fedsim.components.core.layer_schedule import LayerSchedule, ScheduleConfig
from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.hooks import Layer
from fedsim.core.registry import component
from fedsim.core.types import MethodDescription, Modality

_NAME = "skipdecode-training"


class SkipDecodeTrainingConfig(ScheduleConfig):
    """Settings of the schedule and its start."""

    prompt: int = Field(default=8, ge=1, description="first tokens P of an example, which pass all layers")


@final
@component(
    _NAME,
    summary="in training, later tokens jump over layers, by skipdecode's schedule",
    tier="research",
    paper="2307.02628",
    fidelity="variant",
    deviates="paper not read: built from a reading note and later code; prompts count in the loss",
    paper_steps=(("training with the decoder's schedule", "SkipDecodeTraining.prepare"),),
)
class SkipDecodeTraining(Layer[SkipDecodeTrainingConfig]):
    """Changes block outputs in training; evaluation and weights do not change."""

    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})

    def prepare(self, model: nn.Module, generator: torch.Generator) -> nn.Module:
        """Return `model` with hooks that let tokens skip blocks in training.

        Raises:
            NotApplicable: the model has no blocks with Llama's names, or the schedule does not fit their number.
        """
        blocks = blocks_of(model, _NAME)
        try:
            schedule = self.config.schedule(len(blocks))
        except FedsimError as error:
            raise NotApplicable(f"component '{_NAME}': {error}") from error
        for number, block in enumerate(blocks):
            block.register_forward_hook(_Jump(number, self.config.prompt, schedule).replace_skipped)
        return model

    def public_description(self) -> MethodDescription:
        """Return the schedule."""
        return MethodDescription(_NAME, settings=self.config.model_dump())


@final
class _Jump:
    """Forward hook that lets some tokens skip a block."""

    def __init__(self, number: int, prompt: int, schedule: LayerSchedule) -> None:
        self._number, self._prompt, self._schedule = number, prompt, schedule

    def replace_skipped(self, block: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """Return the block's output, with its input for skipped tokens; None if all tokens pass through it."""
        if not block.training:
            return None
        before: Tensor = inputs[0]
        runs = [self._runs(place) for place in range(before.shape[1])]
        if all(runs):
            return None
        does_run = torch.tensor(runs, device=before.device)[:, None]
        return with_states(output, torch.where(does_run, states_in(output), before))

    def _runs(self, place: int) -> bool:
        return place < self._prompt or self._number in self._schedule.layers(place - self._prompt)
