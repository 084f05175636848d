"""A feature party of split training as a client: sends cut-layer activations, trains on returned gradients.

Its state between two messages is in Flower's `Context.state`, so different processes may handle them.
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
    """Return the party's cut-layer activations of the rows in a message; step 0 resets the party's state.

    Args:
        world: the scenario's built objects.
        party: index of the party, from 0.
        content: content of the message: row indices and step number.
        state: state of the party; receives the step and the rows.
    """
    if cast("ConfigRecord", content[STEP])["number"] == 0:
        state.clear()
    state[STEP], state[ROWS] = content[STEP], content[ROWS]
    return RecordDict({VECTORS: pack_tensor(_embed_rows(_seat(world, party, state), world, party, state))})


def cut(world: World, party: int, content: RecordDict, state: RecordDict) -> RecordDict:
    """Train the party on the gradients of the last sent rows, and return an empty record.

    Args:
        world: the scenario's built objects.
        party: index of the party, from 0.
        content: content of the message: the gradients, under the party's name.
        state: state of the party; receives the new weights and Adam moments.

    Raises:
        FedsimError: no activations were requested before.
    """
    if STEP not in state:
        raise FedsimError("gradients were returned for rows without a request. Call query.embed first.")
    seat = _seat(world, party, state)
    _embed_rows(seat, world, party, state)  # recompute the graph: another process may have sent the activations
    seat.step(unpack_tensor(content, split_settings(world).parties[party].name))
    state[_WEIGHTS] = ArrayRecord(dict(seat.bottom.state_dict()))
    state[_MOMENTS] = ArrayRecord(_moments(seat))
    return RecordDict()


def pack_tensor(tensor: Tensor) -> ArrayRecord:
    """Return a record with a single tensor."""
    return ArrayRecord({VECTORS: tensor})


def unpack_tensor(content: RecordDict, key: str = VECTORS) -> Tensor:
    """Return the tensor of a record in a message."""
    return cast("ArrayRecord", content[key]).to_torch_state_dict()[VECTORS]


def split_settings(world: World) -> SplitTraining:
    """Return the settings of split training of a scenario.

    Raises:
        FedsimError: the scenario has no table of parties.
    """
    for question in world.questions:
        if isinstance(question.config, SplitTraining):
            return question.config
    raise FedsimError("the scenario has no parties. Add the table [vertical].")


def _seat(world: World, party: int, state: RecordDict) -> Seat:
    """Return the party restored from its state after its last message."""
    settings, seed = split_settings(world), world.scenario.seed
    bottom = first_model(settings, world.data.dataset, seed).bottoms[settings.parties[party].name]
    seat = Seat(settings, bottom, seed, party)
    if _WEIGHTS in state:
        bottom.load_state_dict(cast("ArrayRecord", state[_WEIGHTS]).to_torch_state_dict())
        _set_moments(seat, cast("ArrayRecord", state[_MOMENTS]).to_torch_state_dict())
    return seat


def _embed_rows(seat: Seat, world: World, party: int, state: RecordDict) -> Tensor:
    inputs = world.data.dataset.train.inputs[unpack_tensor(state, ROWS)]
    held = split_settings(world).parties[party].select_inputs(inputs).double()
    return seat.embed(held, cast("int", cast("ConfigRecord", state[STEP])["number"]))


def _moments(seat: Seat) -> dict[str, Tensor]:
    """Return Adam's state tensors, by parameter index and name, e.g. ``0.exp_avg``."""
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
