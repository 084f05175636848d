"""The seat with the labels, and what an attack makes of a party's columns there."""

from typing import Any

import torch
from torch import Tensor

from fedsim.core import registry
from fedsim.questions.vertical.observe import SplitFederation, features_view
from fedsim.questions.vertical.types import CutKnowledge, CutView

EVERYTHING: frozenset[CutKnowledge] = frozenset({"top", "bottom", "architecture", "public-data", "columns"})


def made(name: str, **settings: Any) -> Any:
    method = registry.get("attack", name)
    return method.make(method.config.model_validate(settings))


def seat(federation: SplitFederation, name: str, rows: int = 200, epoch: int = 1) -> tuple[CutView, Tensor]:
    """Return the view that an attack has of party a, and the columns of its rows."""
    run = federation.run()
    view = features_view(federation, run, "a", epoch, made(name).reads, EVERYTHING, (rows, 1))
    return view, run.parts["a"][view.rows]


def guessed(name: str, view: CutView, **settings: Any) -> Tensor:
    return made(name, **settings)(view, torch.Generator().manual_seed(3))


def errors(guesses: Tensor, originals: Tensor) -> Tensor:
    """The largest error of each row."""
    return (guesses - originals).flatten(1).abs().amax(1)
