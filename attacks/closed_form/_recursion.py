"""Recursion from the last layer of a sequential network to its inputs, for a single example or a small batch.

The last layer's gradient gives k_L = dL/dz_L and the layer's input, for every example. From these, for every layer l,
z_l = act^-1(x_l) and k_l = (W_{l+1}^T k_{l+1}) * m_l / (1 - p) * act'(z_l) follow, and linear equations determine the
layer's inputs. Zeros of a recovered input after a dropout are the dropped units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from pydantic import Field
from torch import Tensor, nn

from attacks.closed_form._heads import heads_of
from attacks.closed_form._sequential_network import SequentialLayer, chain_of
from attacks.core.defense_facts import inexact
from attacks.core.gradient_distance import knows_rates, verdict
from attacks.core.labels import examples_of
from attacks.core.outlooks import outlook_of
from attacks.core.pixels import pixel_box
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import NothingFound
from attacks.core.tolerances import EXACT, LEAST, MATCHES
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import CostEstimate
from fedsim.core.nets.losses import is_cross_entropy
from fedsim.core.types import Config, Masks, Observation, OnStep, Reconstruction, Step, Tensors

WEAKEST = 1e-6  # equations weaker than this share of the strongest are left out
# relative size of a dropped entry in a solved input; rounding errors of float32 stay below
_DROPPED = 1e-6
_SETTLED = 1e-6
_TWINS = 1e-9
_SECONDS = 1e-9  # of the cube of a convolution's unknowns, on a core of an Intel Xeon


class RecursionConfig(Config):
    """Settings of the recursion."""

    largest_system: int = Field(
        default=4096,
        ge=1,
        description="most unknowns of a convolution; time grows with their cube, 3,000 take about a minute",
    )


def recursion_outlook(
    observation: Observation, config: RecursionConfig, walks: float, chance: float, because: str
) -> CostEstimate:
    """Return the outlook of a recursion; the equations of a convolution cost time that grows with their cube."""
    seconds = 0.0
    takes_numbers = observation.spec.vocabulary is None  # a model of tokens cannot be called on numbers
    if takes_numbers and refusal(observation, config.largest_system) is None:
        convolutions = (layer for layer in chain_of(observation) if isinstance(layer.module, nn.Conv2d))
        cubes = sum((examples_of(observation) * layer.unknowns) ** 3 for layer in convolutions)
        seconds = walks * _SECONDS * cubes
    return outlook_of(observation, 80.0, chance, because, seconds=seconds)


@dataclass(frozen=True)
class LinearEquations:
    """Linear equations for an input x: rows x = targets, shapes (m, n) and (m,)."""

    rows: Tensor
    targets: Tensor


@dataclass(frozen=True)
class LayerSolution:
    """Solution for a layer's inputs of all examples.

    Attributes:
        values: inputs of the layer, after dropout, shape (n,), float64; examples are concatenated.
        rank: number of independent equations, at most n.
        residual: relative residual of the equations.
        equations: the equations, None if the input is fully determined.
    """

    values: Tensor
    rank: int
    residual: float
    equations: LinearEquations | None = None


@dataclass(frozen=True)
class Outputs:
    """Partly known outputs z of a layer, shape (outputs,).

    Attributes:
        values: z, where the activation and the following dropout show it.
        slopes: derivative of the next layer's input with respect to z; 0 where z is not shown.
        behind: the solution for the next layer's input.
        is_complete: whether the next layer's input is fully determined.
    """

    values: Tensor
    slopes: Tensor
    behind: LayerSolution
    is_complete: bool

    def examples(self, layer: SequentialLayer) -> int:
        """Return the number of examples in the layer's outputs."""
        return len(self.values) // len(layer.offset)


# Solves a convolution from: the layer, its weight gradient, k, its known outputs, and its input for a guess.
Solve = Callable[[SequentialLayer, Tensor, Tensor, Outputs, Tensor], LayerSolution]


@dataclass(frozen=True)
class Recursion:
    """The best pass from the last layer to the image.

    Attributes:
        inputs: the examples, shape (B, *shape), in the model's precision.
        labels: shape (B,).
        masks: one per site.
        objective: value of the objective that `meaning` describes.
        ranks: (layer, independent equations, unknowns) of every layer, last layer first.
        residual: the largest residual of all layers.
        heads: number of heads that the gradient of the last layer allows.
        twins: number of heads that explain the whole gradient equally well. Without biases, two classes allow images
            that differ by a factor, or by their sign and label; the pixel range decides.
        objectives: objectives of all passes, in order.
    """

    inputs: Tensor
    labels: Tensor
    masks: Masks
    objective: float
    meaning: str
    ranks: tuple[tuple[str, int, int], ...]
    residual: float
    heads: int
    twins: int
    objectives: tuple[float, ...]

    @property
    def history(self) -> tuple[tuple[int, float], ...]:
        """Pairs of a pass's number, from 1, and its objective."""
        return tuple(enumerate(self.objectives, start=1))

    @property
    def number(self) -> int:
        """The number of this pass, from 1."""
        return self.objectives.index(self.objective) + 1

    @property
    def diagnostics(self) -> dict[str, float]:
        """Ranks, unknowns and residual by name."""
        diagnostics = {
            "largest residual": self.residual,
            "heads tried": float(self.heads),
            "heads that fit": float(self.twins),
            "walks": float(len(self.objectives)),
        }
        for name, rank, unknowns in self.ranks:
            diagnostics[f"rank of '{name}'"] = float(rank)
            diagnostics[f"unknowns of '{name}'"] = float(unknowns)
        if self.masks:
            diagnostics["zero share"] = float((torch.cat([mask.flatten() for mask in self.masks]) == 0).double().mean())
        return diagnostics

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the record."""
        residual = f"largest residual of a layer's equations {self.residual:.1e}"
        if self.twins == 1:
            return residual, self.meaning
        return (
            residual,
            f"{self.twins} images fit the gradient; the returned image fits the pixel range best",
            self.meaning,
        )

    @property
    def is_exact(self) -> bool:
        """Whether the first layer's equations determine the image, and it explains the gradient up to rounding.

        1 - cosine is half a squared relative distance.
        """
        _, rank, unknowns = self.ranks[-1]
        return rank == unknowns and self.objective < EXACT**2

    @property
    def matches(self) -> bool:
        """Whether the guess explains the gradient."""
        return self.objective < MATCHES

    def reconstruction(self, observation: Observation, stopped: str) -> Reconstruction:
        """Return this pass as the attack's reconstruction.

        Args:
            observation: inputs of the attack.
            stopped: why the attack ended.
        """
        return Reconstruction(
            inputs=self.inputs,
            labels=self.labels,
            masks=self.masks or None,
            objective=self.objective,
            iterations=len(self.history),
            best_iteration=self.number,
            history=self.history,
            stop_reason=stopped,
            notes=self.notes,
            diagnostics=self.diagnostics,
            is_exact=self.is_exact and inexact(observation) is None,
        )

    @property
    def short(self) -> tuple[str, int, int] | None:
        """The first layer, from the last to the first, with fewer independent equations than unknowns, or None."""
        return next((entry for entry in self.ranks if entry[1] < entry[2]), None)


def refusal(observation: Observation, largest: int) -> str | None:
    """Return why no recursion can start, or None.

    Args:
        observation: inputs of the attack.
        largest: largest number of unknowns of a convolution's input.
    """
    examples = examples_of(observation)
    reason = one_gradient_only(observation)
    if reason is not None:
        return reason
    if not knows_rates(observation):
        return "the dropout rates are not known, and the recursion divides by 1 - p in every layer"
    try:
        layers = chain_of(observation)
    except NotApplicable as stranger:
        return str(stranger)
    head = layers[-1].module
    assert isinstance(head, nn.Linear)
    if not is_cross_entropy(observation.loss, (examples, head.out_features)):
        return "the loss is not the cross entropy of the model's outputs"
    too_large = (reason for layer in layers if (reason := _too_large(layer, examples, largest)))
    return _refuse_batch(observation, examples, head.out_features) or next(too_large, None)


def _refuse_batch(observation: Observation, examples: int, classes: int) -> str | None:
    if examples > 1 and examples >= classes:
        return (
            f"the update mixes {examples} examples; the last layer separates fewer examples than its {classes} outputs"
        )
    strange = [site.name for site in observation.sites if site.shape[0] != examples]
    return f"the dropout mask of '{strange[0]}' does not begin with the examples" if strange else None


def recurse(observation: Observation, solve: Solve, walks: int, on_step: OnStep) -> Recursion:
    """Run the recursion from every head that the last layer's gradient allows; return the best pass.

    Of passes with almost equal objectives, the image nearest to the pixel range wins.

    Args:
        observation: observation for which `refusal` returns None.
        solve: least squares for one convolution.
        walks: largest number of passes per head; each starts from the image of the previous pass, the first from a grey
            image.
        on_step: called once per pass.

    Raises:
        NothingFound: the last layer's gradient does not separate the examples of a batch.
    """
    layers = chain_of(observation)
    factor = observation.learning_rate if observation.update.kind == "delta" else 1.0
    gradients = {name: tensor.double() / factor for name, tensor in observation.update.tensors.items()}
    done: list[Recursion] = []
    head_of: list[int] = []
    examples = examples_of(observation)
    heads = heads_of(observation, layers[-1], gradients)
    if not heads:
        raise NothingFound("the gradient of the last layer does not separate the examples")
    for number, (k, features) in enumerate(heads):
        guess = torch.zeros(examples * layers[0].unknowns, dtype=torch.float64)
        keeps = [torch.ones(examples * layer.unknowns, dtype=torch.float64) for layer in layers]
        for count in range(1, walks + 1):
            centres = _inputs(layers, guess, keeps)
            walk, keeps = _walk(observation, layers, gradients, solve, k, features, centres)
            done.append(walk)
            head_of.append(number)
            best = min(done, key=lambda solution: solution.objective)  # for the progress; the final choice follows
            on_step(Step(number, count, walks, walk.objective, best.objective, best.inputs))
            image = walk.inputs.double().flatten()
            if walk.short is None or (image - guess).norm() < _SETTLED * image.norm():
                break
            guess = image
    limit = max(_TWINS, 10 * min(walk.objective for walk in done))
    fitting = [index for index, walk in enumerate(done) if walk.objective <= limit]
    best = min(
        (done[index] for index in fitting),
        key=lambda solution: (_outside(observation, solution.inputs), solution.objective),
    )
    objectives = tuple(walk.objective for walk in done)
    return replace(best, heads=len(heads), twins=len({head_of[index] for index in fitting}), objectives=objectives)


def _outside(observation: Observation, image: Tensor) -> float:
    """Return the distance of an image from the pixel range; 0 inside."""
    low, high = (bound.to(image.dtype) for bound in pixel_box(observation))
    return float((image - image.clamp(low, high)).norm())


def _inputs(layers: tuple[SequentialLayer, ...], guess: Tensor, keeps: list[Tensor]) -> list[Tensor]:
    """Return the inputs (n,) of every layer for the examples `guess`."""
    seen: list[Tensor] = []
    values = guess
    for layer, kept in zip(layers, keeps, strict=True):
        values = values * kept / (1.0 - (layer.drop.rate if layer.drop else 0.0))
        seen.append(values)
        values = layer.activation.function(layer.apply(values))
    return seen


def _walk(
    observation: Observation,
    layers: tuple[SequentialLayer, ...],
    gradients: Tensors,
    solve: Solve,
    k: Tensor,
    features: Tensor,
    centres: list[Tensor],
) -> tuple[Recursion, list[Tensor]]:
    """Return a pass and the kept entries of each layer's dropout; `centres` are the layers' inputs for a guess."""
    examples, label = len(k), k.argmin(1) if observation.labels is None else observation.labels
    head = gradients[f"{layers[-1].name}.weight"]
    residual = float((k.T @ features - head).norm() / head.norm())
    solution, k = LayerSolution(features.flatten(), features.numel(), residual), k.flatten()
    solutions = [solution]
    keeps = [_infer_mask(layers[-1], gradients, solution.values, examples)]
    for layer, next_layer, centre in zip(layers[-2::-1], layers[:0:-1], centres[-2::-1], strict=True):
        rate = next_layer.drop.rate if next_layer.drop is not None else 0.0
        outputs = solution.values * (1.0 - rate)
        slopes = layer.activation.slope(outputs) * keeps[-1] / (1.0 - rate)
        k = next_layer.transpose(k) * slopes
        known = Outputs(
            layer.activation.inverse(outputs), slopes, solution, solution.rank == examples * next_layer.unknowns
        )
        solution = _solve(layer, gradients[f"{layer.name}.weight"], k, known, solve, centre)
        solutions.append(solution)
        keeps.append(_infer_mask(layer, gradients, solution.values, examples))
    first = layers[0]
    image = (solution.values * (1.0 - (first.drop.rate if first.drop else 0.0))).view(-1, *observation.spec.shape)
    image = image.to(next(observation.model.parameters()).dtype)
    masks = _masks(observation, layers, keeps[::-1])
    worst = max(solution.residual for solution in solutions)
    objective, meaning = verdict(observation, image, label, masks, (worst, "largest residual of the layers' equations"))
    ranks = tuple((la.name, s.rank, examples * la.unknowns) for la, s in zip(layers[::-1], solutions, strict=True))
    walk = Recursion(image, label.clone(), masks, objective, meaning, ranks, worst, 1, 1, (objective,))
    return walk, keeps[::-1]


def _solve(
    layer: SequentialLayer, gradient: Tensor, k: Tensor, outputs: Outputs, solve: Solve, centre: Tensor
) -> LayerSolution:
    """Solve for a layer's input: a linear layer from its gradient alone, a convolution from all equations."""
    if not bool(k.any()):
        return LayerSolution(torch.zeros_like(centre), 0, 1.0)
    if isinstance(layer.module, nn.Conv2d):
        return solve(layer, gradient, k, outputs, centre)
    rows = k.view(-1, len(gradient))  # (B, outputs)
    solved = torch.linalg.lstsq(rows.T, gradient, rcond=EXACT**2, driver="gelsd")
    residual = float((rows.T @ solved.solution - gradient).norm() / gradient.norm().clamp_min(LEAST))
    return LayerSolution(solved.solution.flatten(), int(solved.rank) * layer.unknowns, residual)


def _infer_mask(layer: SequentialLayer, gradients: Tensors, values: Tensor, examples: int) -> Tensor:
    """Return 1 for entries of the layer's input (n,) that the dropout in front kept, 0 for dropped entries."""
    if layer.drop is None:
        return torch.ones_like(values)
    if isinstance(layer.module, nn.Linear) and examples == 1:
        alive = gradients[f"{layer.name}.weight"].any(0)
    else:
        alive = values.abs() > _DROPPED * values.abs().max()
    activation = alive.view(examples, *layer.drop.activation[1:])
    mask = _reduce(activation, (examples, *layer.drop.mask[1:]))
    return mask.expand(activation.shape).flatten().double()


def _reduce(alive: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return True for mask entries with any nonzero activation."""
    for dimension, (size, wanted) in enumerate(zip(alive.shape, shape, strict=True)):
        alive = alive.any(dimension, keepdim=True) if wanted < size else alive
    return alive


def _masks(observation: Observation, layers: tuple[SequentialLayer, ...], keeps: list[Tensor]) -> Masks:
    dtype = next(observation.model.parameters()).dtype
    by_index = {
        layer.drop.index: _reduce(
            kept.view(-1, *layer.drop.activation[1:]).bool(), tuple(observation.sites[layer.drop.index].shape)
        ).to(dtype)
        for layer, kept in zip(layers, keeps, strict=True)
        if layer.drop is not None
    }
    return tuple(by_index[index] for index in range(len(observation.sites)))


def _too_large(layer: SequentialLayer, examples: int, largest: int) -> str | None:
    unknowns = examples * layer.unknowns
    if isinstance(layer.module, nn.Linear) or unknowns <= largest:
        return None
    return f"convolution '{layer.name}' has {unknowns} unknowns, more than 'largest_system' = {largest}"
