"""closed-form-recurrent: recover a whole window from the gradient of a recurrent layer, time step by time step.

Idea: both weights of the layer have the same gate gradients, so the inputs (multiplied by the first) are a linear
    function of the states (multiplied by the second). The first state is 0, so the function gives the first input; that
    gives the next state, and so on.
Equation: x_t = [1, h_(t-1)] P, P = pinv([db, dW_hh]) dW_ih; for a GRU only in the rows of its gates r and z.
Assumes: honest-but-curious server, an exact gradient of a single window; the first recurrent layer reads the window
    from an initial state of 0. The later layers and the loss are arbitrary.
Recovers: the exact window, also of a single variable, and its target.
Fails: several windows (refused); more time steps than entries of a state; states that hardly change, since rounding
    grows with the condition number of [db, dW_hh]: in single precision beyond about ten time steps.
Source: this project, no paper.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple, cast, final

import torch
from torch import Tensor, nn

from attacks.core.gradient_distance import doubts, may_be_exact, verdict
from attacks.core.outlooks import outlook_of
from attacks.core.pixels import pixel_box
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import no_guess
from attacks.core.spans import share_outside
from attacks.core.targets.reading import label_guess
from attacks.core.tolerances import EXACT, LEAST
from fedsim.core import seeding
from fedsim.core.hooks import CostEstimate, Effort, LabelFreeAttack, Tables
from fedsim.core.nets.masks import disable_dropout
from fedsim.core.registry import attack
from fedsim.core.types import Config, Observation, OnStep, Reconstruction, Step

_NEEDED = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0")
_BEYOND = 10.0  # ratio to the largest value of public windows above which rounding dominates


class _WindowLayer(NamedTuple):
    """The layer that reads the window, and the example entries that each time step reads, (times, variables)."""

    name: str
    layer: nn.RNNBase
    places: Tensor


@final
@attack(
    "closed-form-recurrent",
    summary="exact window from the gradient of an RNN, GRU or LSTM; a single window",
    tier="core",
    related="2503.20952",
)
class ClosedFormRecurrent(LabelFreeAttack[Config]):
    """Runs the layer on the inputs that its own gradient gives."""

    effort: ClassVar[Effort] = "algebra"
    example: ClassVar[Tables] = {"model": {"name": "recurrent", "width": 24}, "federation": {"batch_size": 1}}

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several steps or windows, and models whose first recurrent layer does not read the window."""
        reader = _window_layer(observation)
        if isinstance(reader, str):
            return reader
        windows, times = observation.batch_size or 1, len(reader.places)
        if windows > 1:
            return (
                f"the update mixes {windows} windows of {times} times; their first states are all 0, so "
                f"{windows * times} inputs have {windows * (times - 1) + 1} independent states at most, "
                "fewer than this closed form needs. Attack 'gauss-newton' may recover them"
            )
        missing = [name for name in _NEEDED if f"{reader.name}.{name}" not in observation.update.tensors]
        if missing:
            return f"the gradient of '{reader.name}.{missing[0]}' is not shared"
        width = reader.layer.hidden_size
        if times > width:
            return f"a window has {times} times, more than the {width} numbers of a state"
        return one_gradient_only(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect a few gradients: one division for each time step."""
        return outlook_of(observation, 5.0, 0.9, "both weights of the layer have the same gate gradients")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Solve for the map from states to inputs, then run the layer on the inputs that it gives."""
        reader = _window_layer(observation)
        assert not isinstance(reader, str)
        step, condition = _inputs_by_state(observation, reader)
        diagnostics = {"condition number": condition}
        unrolled = _unroll_window(reader, step, _entry_bound(observation))
        if unrolled is None:
            reason = "rounding hides the window: states hardly change from time to time"
            return no_guess(observation, reason, diagnostics=diagnostics)
        window, states = unrolled
        flat = torch.empty(reader.places.numel(), dtype=torch.float64)
        flat[reader.places.flatten()] = window.flatten()
        inputs = flat.to(next(observation.model.parameters()).dtype).view(1, *observation.spec.shape)
        masks = None if observation.sites else ()
        labels, notes = label_guess(observation, inputs, masks)
        left = _outside(observation, reader, window, states)
        residual = (left, "share of the layer's gradient outside the span of inputs and states")
        objective, meaning = verdict(observation, inputs, labels, masks, residual)
        on_step(Step(0, 1, 1, objective, objective, inputs))
        return Reconstruction.of(
            inputs=inputs,
            labels=labels,
            objective=objective,
            iterations=1,
            stop_reason="solved in closed form",
            notes=(f"layer '{reader.name}' reads the window", meaning, *notes, *doubts(observation)),
            diagnostics={**diagnostics, "outside the span": left},
            is_exact=left < EXACT and may_be_exact(observation, objective),
        )


def _window_layer(observation: Observation) -> _WindowLayer | str:
    """Return the first recurrent layer with its example entries per time step, or why it does not read the window."""
    model = observation.working_copy(dtype=torch.float64)
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.RNNBase)]
    if not layers:
        return "no layer is recurrent"
    name, layer = layers[0]
    if not layer.bias or layer.proj_size:
        return f"layer '{name}' has no bias, or projects its states"
    numbers = torch.arange(math.prod(observation.spec.shape), dtype=torch.float64)
    seen = list[tuple[Any, ...]]()
    handle = layer.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs))
    with handle, torch.no_grad(), disable_dropout(), seeding.isolate_randomness(0):
        model.eval()(numbers.view(1, *observation.spec.shape))
    inputs, *states = seen[0] if len(seen) == 1 else (torch.empty(0),)
    places = inputs.flatten(0, -2) if inputs.ndim > 1 else inputs
    if not torch.equal(places.flatten().sort().values, numbers) or not all(_is_blank(state) for state in states):
        return f"layer '{name}' does not read the window once, as it is, from a state of 0"
    return _WindowLayer(name, layer, places.long())


def _is_blank(state: Any) -> bool:
    """Return whether an initial state is 0, a single tensor or a pair."""
    parts = state if isinstance(state, tuple) else (state,)
    return all(part is None or not bool(part.any()) for part in cast("tuple[Tensor | None, ...]", parts))


def _entry_bound(observation: Observation) -> float:
    """Return an upper bound on the absolute value of a window's entries."""
    low, high = pixel_box(observation)
    return _BEYOND * float(torch.maximum(low.abs(), high.abs()).max().clamp_min(1.0))


def _gradients(observation: Observation, reader: _WindowLayer) -> tuple[Tensor, Tensor]:
    """Return dW_ih (rows, variables) and [db, dW_hh] (rows, 1 + width), in the rows with equal gate gradients."""
    tensors = observation.update.tensors
    inputs, states, bias = (tensors[f"{reader.name}.{name}"].double().cpu() for name in _NEEDED)
    rows = 2 * reader.layer.hidden_size if isinstance(reader.layer, nn.GRU) else len(bias)  # no candidate rows of a GRU
    return inputs[:rows], torch.column_stack([bias, states])[:rows]


def _inputs_by_state(observation: Observation, reader: _WindowLayer) -> tuple[Tensor, float]:
    """Return P (1 + width, variables), from [1, state] to the next input, and the condition number of its equations."""
    inputs, states = _gradients(observation, reader)
    left, singular, right = torch.linalg.svd(states, full_matrices=False)
    rank = len(reader.places)
    inverse = right[:rank].T / singular[:rank].clamp_min(LEAST)
    return inverse @ (left[:, :rank].T @ inputs), float(singular[0] / singular[rank - 1].clamp_min(LEAST))


def _unroll_window(reader: _WindowLayer, step: Tensor, tolerance: float) -> tuple[Tensor, Tensor] | None:
    """Return inputs (times, variables) and the states before them (times, width); None above the bound."""
    cell, state = _cell(reader.layer), None
    inputs, states = list[Tensor](), list[Tensor]()
    before = torch.zeros(1, reader.layer.hidden_size, dtype=torch.float64)
    for _ in range(len(reader.places)):
        current = step[:1] + before @ step[1:]
        if not bool((current.abs() <= tolerance).all()):
            return None
        inputs.append(current)
        states.append(before)
        state = cell(current, state)
        before = state[0] if isinstance(state, tuple) else state
    return torch.cat(inputs), torch.cat(states)


def _cell(layer: nn.RNNBase) -> nn.RNNCellBase:
    """Return the layer as a cell for one time step; created on the meta device, so that no random weights are drawn."""
    sizes = layer.input_size, layer.hidden_size
    if isinstance(layer, nn.RNN):
        cell = nn.RNNCell(*sizes, nonlinearity=layer.nonlinearity, device="meta")
    else:
        cell = (nn.GRUCell if isinstance(layer, nn.GRU) else nn.LSTMCell)(*sizes, device="meta")
    weights = {name: layer.get_parameter(f"{name}_l0").detach() for name in cell.state_dict()}
    cell.load_state_dict(weights, assign=True)
    return cell.requires_grad_(requires_grad=False)


def _outside(observation: Observation, reader: _WindowLayer, window: Tensor, states: Tensor) -> float:
    """Return the norm share of the layer's gradient outside the span of [input, 1, state]; 0 for the ground truth."""
    inputs, hidden = _gradients(observation, reader)
    rows = torch.column_stack([window, torch.ones(len(window), dtype=window.dtype), states])
    return share_outside(torch.column_stack([inputs, hidden]), rows)
