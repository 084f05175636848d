"""A party of split training as a client: it answers with vectors, and trains on the gradients that come back.

What it keeps between two messages lives in Flower's `Context.state`, so they may be answered by different processes.
"""

from __future__ import annotations

from typing import cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from fedsim.core.errors import FedsimError
from fedsim.questions.vertical.training import Seat, SplitTraining, first_model
from fedsim.scenario.world import World

EMBED, CUT = "embed", "cut"
STEP, ROWS, VECTORS = "step", "rows", "vectors"
_WEIGHTS, _MOMENTS = "weights", "moments"


def embed(world: World, party: int, content: RecordDict, state: RecordDict) -> RecordDict:
    """Return the party's vectors of the rows that a message names; the step with number 0 begins the training.

    Args:
        world: the scenario made real.
        party: its number, from 0.
        content: of the message: numbers of the rows, and of the step.
        state: what the party keeps; gets the step.
    """
    if cast("ConfigRecord", content[STEP])["number"] == 0:
        state.clear()
    state[STEP], state[ROWS] = content[STEP], content[ROWS]
    return RecordDict({VECTORS: packed(_embedded(_seat(world, party, state), world, party, state))})


def cut(world: World, party: int, content: RecordDict, state: RecordDict) -> RecordDict:
    """Train the party on the gradients of the rows that it sent last, and return nothing.

    Args:
        world: the scenario made real.
        party: its number, from 0.
        content: of the message: the gradients, under the party's name.
        state: what the party keeps; gets its new weights.

    Raises:
        FedsimError: no rows were asked for before.
    """
    if STEP not in state:
        raise FedsimError("gradients came back for rows that were never asked for. Ask with query.embed first.")
    seat = _seat(world, party, state)
    _embedded(seat, world, party, state)  # the process that sent the vectors may be gone, and its graph with it
    seat.step(unpacked(content, split_settings(world).parties[party].name))
    state[_WEIGHTS] = ArrayRecord(dict(seat.bottom.state_dict()))
    state[_MOMENTS] = ArrayRecord(_moments(seat))
    return RecordDict()


def packed(tensor: Tensor) -> ArrayRecord:
    """Return a record of one tensor."""
    return ArrayRecord({VECTORS: tensor})


def unpacked(content: RecordDict, key: str = VECTORS) -> Tensor:
    """Return the tensor of one record of a message."""
    return cast("ArrayRecord", content[key]).to_torch_state_dict()[VECTORS]


def split_settings(world: World) -> SplitTraining:
    """Return how the parties of a scenario train.

    Raises:
        FedsimError: it has no table of them.
    """
    for question in world.questions:
        if isinstance(question.config, SplitTraining):
            return question.config
    raise FedsimError("the scenario has no parties. Add the table [vertical].")


def _seat(world: World, party: int, state: RecordDict) -> Seat:
    """Return the party as it was after its last message."""
    settings, seed = split_settings(world), world.scenario.seed
    bottom = first_model(settings, world.data.dataset, seed).bottoms[settings.parties[party].name]
    seat = Seat(settings, bottom, seed, party)
    if _WEIGHTS in state:
        bottom.load_state_dict(cast("ArrayRecord", state[_WEIGHTS]).to_torch_state_dict())
        _set_moments(seat, cast("ArrayRecord", state[_MOMENTS]).to_torch_state_dict())
    return seat


def _embedded(seat: Seat, world: World, party: int, state: RecordDict) -> Tensor:
    inputs = world.data.dataset.train.inputs[unpacked(state, ROWS)]
    held = split_settings(world).parties[party].held(inputs).double()
    return seat.embed(held, cast("int", cast("ConfigRecord", state[STEP])["number"]))


def _moments(seat: Seat) -> dict[str, Tensor]:
    """Return what Adam knows, by the number of the weights and the name of the moment."""
    if seat.optimizer is None:
        return {}
    state = seat.optimizer.state_dict()["state"]
    return {f"{number}.{name}": moment for number, moments in state.items() for name, moment in moments.items()}


def _set_moments(seat: Seat, moments: dict[str, torch.Tensor]) -> None:
    if seat.optimizer is None:
        return
    state: dict[int, dict[str, Tensor]] = {}
    for key, moment in moments.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = moment
    seat.optimizer.load_state_dict({**seat.optimizer.state_dict(), "state": state})
