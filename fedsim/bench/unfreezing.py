"""Further training of the tiny VLM with all weights, including its vision encoder, once, stored in the user's cache.

Stage 2 after `fedsim bench model digit-grids`, which trains the encoder first and then freezes it. Images are newly
sampled in each step, and a quarter of the questions request all digits, a new kind of question.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedsim.bench import grids
from fedsim.bench.descent import OnStep, ignore_step, train_once
from fedsim.core.nets import checkpoints
from fedsim.data._grid_questions import draw_digits, paint
from fedsim.data._grid_words import QUESTION_LENGTH, Kind
from fedsim.data.digit_grids import stocks

NAME = "digit-grids-unfrozen"
PLAN = grids.StagePlan("everything", steps=1000, rate=2e-4, decay=0.01, clip=1.0)
MIX: Mapping[Kind, float] = {"position": 0.3, "presence": 0.2, "counting": 0.25, "list": 0.25}
_IMAGES, _TURNS = 16, 8
_MINUTES = 6.0


def load_trained_model(on_step: OnStep = ignore_step) -> Any:
    """Return the model, in evaluation mode; the first call trains it, for several minutes.

    Raises:
        FedsimError: the cache cannot be written.
        MissingExtra: the package with the digits is not installed.
    """
    model = grids.load_trained_model(on_step)
    folder = train_once(
        NAME,
        _MINUTES,
        lambda states: train(model, states, PLAN, on_step),
        lambda folder: grids.write(model, folder),
    )
    weights = checkpoints.verify_checksum(folder / checkpoints.WEIGHTS)
    model.load_state_dict({name: weight.float() for name, weight in torch.load(weights, weights_only=True).items()})
    return model


def train(model: Any, states: Path, plan: grids.StagePlan, on_step: OnStep) -> None:
    """Train all weights of a model in place, from the last saved state on."""
    model.train()
    grids.descend(model, lambda generator: seen_loss(model, generator), plan, states, on_step)
    model.eval()


def seen_loss(model: Any, generator: torch.Generator) -> Tensor:
    """Return the loss on newly sampled questions and images, including the encoder."""
    digits = draw_digits(_IMAGES, grids.CELLS, grids.OCCUPIED, 0.5, generator)
    images = paint(digits, grids.CELLS, stocks("mnist5k")[0], generator)
    no_question = torch.zeros(_IMAGES, QUESTION_LENGTH, dtype=torch.long)  # not read by the encoder
    return grids.turns_loss(model, digits, model.encode(images, no_question).hidden_states, MIX, _TURNS, generator)
