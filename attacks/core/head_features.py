"""Recover the last linear layer's input for each example of a batch from that layer's gradient.

The layer computes class scores z_b = W h_b + c. Its gradients dW = sum_b k_b h_b^T and dc = sum_b k_b mix the examples,
with k_b = (softmax(z_b) - onehot(y_b)) / B. But every input lies in the row space of dW, so r coordinates determine the
input, and the input determines its own k_b. About B r unknowns remain for K r equations, which a few Gauss-Newton steps
solve.

Two examples of equal labels have almost the same k in a fresh model. Then dW holds their sum and, far smaller, the
change of k by the difference of their inputs, times that difference. The second term counts if it exceeds rounding,
whose size shows in the singular values after the B-th: in exact arithmetic they would be zero.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import jacrev

from attacks.core.mean_gradient import gradient_weight
from attacks.core.tolerances import EXACT, LEAST, SINGLE
from fedsim.core.nets.losses import is_cross_entropy
from fedsim.core.nets.output_layer import output_layer
from fedsim.core.time_budget import check_deadline
from fedsim.core.types import Observation

_STARTS = 32
_REPEATS = 3  # of the first guess: errors of equal scores, the inputs that follow, and their errors
_FINEST = 1e-15  # relative change at which a search in double precision ends
_CLEAR = 5.0  # ratio to the rounding floor above which a singular value is signal: structured rounding stays below
_DOUBLE = 1e-12  # relative to the largest singular value: far above rounding in double precision
_APART = 1e-2  # relative to the inputs' size: enough to leave the saddle at equal inputs


class Head(NamedTuple):
    """A last linear layer and its gradient, all float64, on the CPU.

    Attributes:
        weight: W, shape (K, D).
        bias: c, shape (K,), or None.
        gradient: dW, shape (K, D).
        bias_gradient: dc, shape (K,), or None.
    """

    weight: Tensor
    bias: Tensor | None
    gradient: Tensor
    bias_gradient: Tensor | None


class HeadFeatures(NamedTuple):
    """Recovered inputs of the layer, and the errors of its scores.

    Attributes:
        inputs: h, shape (B, D).
        errors: k = dL/dz, shape (B, K), for a mean over the examples.
        residual: |dW - sum_b k_b h_b^T|, biases included, relative to |dW|.
        accuracy: first-order relative error of an input, caused by single-precision rounding of the gradient.
        blur: relative error of the difference of inputs with equal labels; 1 if they cannot be distinguished.
    """

    inputs: Tensor
    errors: Tensor
    residual: float
    accuracy: float
    blur: float


class SeparatedFeatures(NamedTuple):
    """Name of the last layer, its recovered input for every example, (B, D), and bounds on the inputs' errors (B,)."""

    name: str
    features: Tensor
    errors: Tensor


def features_of(observation: Observation, labels: Tensor, generator: torch.Generator) -> SeparatedFeatures | None:
    """Return the last layer's input for every example, or None if its gradient does not determine it."""
    output = output_layer(observation.model, observation.spec.classes)
    tensors = observation.update.tensors
    if output is None or observation.local_steps > 1 or f"{output[0]}.weight" not in tensors:
        return None
    name, layer = output
    if not is_cross_entropy(observation.loss, (2, layer.out_features)):
        return None
    factor, bias = gradient_weight(observation), tensors.get(f"{name}.bias")
    head = Head(
        layer.weight.detach().cpu().double(),
        None if layer.bias is None else layer.bias.detach().cpu().double(),
        tensors[f"{name}.weight"].cpu().double() / factor,
        None if bias is None else bias.cpu().double() / factor,
    )
    separated = separate_features(head, labels.cpu(), generator)
    return None if separated is None else SeparatedFeatures(name, separated.inputs, _errors_of(separated, labels.cpu()))


def _errors_of(separated: HeadFeatures, labels: Tensor) -> Tensor:
    """Return the error bound of each input (B, D): rounding plus the blur of inputs with equal labels."""
    alike = (labels[:, None] == labels).double()
    means = alike @ separated.inputs / alike.sum(1, keepdim=True)
    return SINGLE * separated.inputs.norm(dim=1) + separated.blur * (separated.inputs - means).norm(dim=1)


def separate_features(head: Head, labels: Tensor, generator: torch.Generator) -> HeadFeatures | None:
    """Return the layer's input for every example, or None if the gradient does not determine it.

    Examples of equal labels and almost equal scores may contribute nothing but rounding to each other's row. Their mean
    is then returned for all of them.

    Args:
        head: with the gradient of a mean cross-entropy over the batch.
        labels: shape (B,), in any order; row b of the answer has label b.
        generator: random source of all starts but the first.

    Raises:
        DeadlineReached: no time is left for a further start.
    """
    if len(labels) >= len(head.weight):
        return None  # the errors sum to zero, so at most K - 1 are independent
    problem = _Problem(head, labels)
    if problem.beyond > EXACT:
        return None  # the rank exceeds the number of examples: the rest is noise, or was cut off
    likely = problem.likely()
    if problem.blur < 1.0:
        likely = likely + _APART * problem.draw_about(likely, generator)
    for number in range(_STARTS):
        check_deadline()
        residual, unknowns = problem.solve(problem.draw_about(likely, generator) if number else likely)
        if residual < EXACT:
            return problem.unpack(unknowns, residual)
    return None


class _Problem:
    """The equations dW E^T = sum_b k(y_b) q_b^T with coordinates q_b = o + y_b C of the inputs in the row space E."""

    def __init__(self, head: Head, labels: Tensor) -> None:
        constant = head.bias if head.bias is not None else head.weight.new_zeros(len(head.weight))
        added = [] if head.bias_gradient is None else [head.bias_gradient[:, None]]
        whole = torch.cat([head.gradient, *added], 1)
        _, sizes, rows = torch.linalg.svd(whole, full_matrices=False)
        self.beyond = float(sizes[len(labels) :].norm() / sizes.norm().clamp_min(LEAST))
        floor = _floor(sizes, len(labels))
        rank = int((sizes[: len(labels)] > _CLEAR * floor).sum())
        self.blur = float(floor / sizes[rank - 1]) if rank == len(labels) else 1.0
        self._rows = rows[:rank]
        self._columns = head.weight.shape[1]
        if added:  # the bias reads 1, so the last entry of every input is 1
            last = self._rows[:, -1]
            self._offset = last / last.square().sum().clamp_min(LEAST)
            self._directions = torch.linalg.svd(last[None]).Vh[1:]
        else:
            self._offset, self._directions = whole.new_zeros(rank), torch.eye(rank, dtype=whole.dtype)
        self._scores = self._rows[:, : self._columns] @ head.weight.T  # (rank, K)
        self._constant = constant
        self._target = whole @ self._rows.T  # (K, rank)
        self._size = float(self._target.norm().clamp_min(LEAST))
        self._labels = F.one_hot(labels, len(head.weight)).to(whole)
        self._shape = len(labels), len(self._directions)

    def likely(self) -> Tensor:
        """Return the first guess of the unknowns (B, r): errors of equal inputs, then repeated least squares."""
        unknowns = self._target.new_zeros(self._shape)
        for _ in range(_REPEATS):
            places = torch.linalg.lstsq(self._errors(unknowns).T, self._target, rcond=EXACT, driver="gelsd").solution
            unknowns = (places - self._offset) @ self._directions.T
        return unknowns

    def draw_about(self, likely: Tensor, generator: torch.Generator) -> Tensor:
        """Return random unknowns (B, r), scaled to the size of the inputs at the likely unknowns (B, r)."""
        size = self._offset.norm() + likely.norm(dim=1).mean()
        return float(size) * torch.randn(self._shape, generator=generator, dtype=torch.float64)

    def solve(self, start: Tensor) -> tuple[float, Tensor]:
        """Return the relative residual and the unknowns (B, r) after Levenberg-Marquardt steps from a start."""
        from scipy.optimize import leastsq  # noqa: PLC0415 - takes long to import

        if not start.numel() or self._target.numel() < start.numel():
            return float(self._residual(start.flatten()).norm()), start
        slopes = jacrev(self._residual)
        values, *_ = leastsq(
            lambda values: self._residual(torch.as_tensor(values)).numpy(),
            start.flatten().numpy(),
            Dfun=lambda values: slopes(torch.as_tensor(values)).numpy(),
            ftol=_FINEST,
            xtol=_FINEST,
            full_output=True,  # avoids a warning about a start that did not converge
        )
        solution = torch.as_tensor(values)
        return float(self._residual(solution).norm()), solution.view(self._shape)

    def unpack(self, unknowns: Tensor, residual: float) -> HeadFeatures:
        """Return inputs and errors for unknowns (B, r)."""
        places = self._offset + unknowns @ self._directions
        inputs = places @ self._rows[:, : self._columns]
        slopes = jacrev(self._residual)(unknowns.flatten())
        least = float(torch.linalg.svdvals(slopes)[-1]) if slopes.numel() else 1.0
        accuracy = torch.finfo(torch.float32).eps / max(least, LEAST) / float(places.norm(dim=1).mean())
        return HeadFeatures(inputs, self._errors(unknowns), residual, accuracy, self.blur)

    def _errors(self, unknowns: Tensor) -> Tensor:
        places = self._offset + unknowns @ self._directions
        return ((places @ self._scores + self._constant).softmax(1) - self._labels) / len(self._labels)

    def _residual(self, values: Tensor) -> Tensor:
        unknowns = values.view(self._shape)
        places = self._offset + unknowns @ self._directions
        return (self._target - self._errors(unknowns).T @ places).flatten() / self._size


def _floor(sizes: Tensor, examples: int) -> float:
    """Return the size of a singular value that rounding causes, from the singular values beyond the examples."""
    floor = 0.1 * EXACT * float(sizes[0])
    if len(sizes) <= examples:
        return floor / _CLEAR
    return min(max(float(sizes[examples]), _DOUBLE * float(sizes[0])), floor / _CLEAR)
