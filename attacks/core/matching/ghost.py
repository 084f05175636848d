"""Fast path: inner products and norms of gradients without explicit gradients.

The gradient of a linear map is dW = sum_n delta_n z_n^T, with inputs z and output gradients delta. So <dW, G> = sum_n
delta_n^T G z_n and |dW|^2 = sum_nm <delta_n, delta_m> <z_n, z_m> need activations only (the norm trick of Goodfellow
2015, arXiv 1510.01799), and rows share every matrix product. An observed gradient of low rank is stored as its factors.

A test decides whether a model is suitable: its linear, convolution, normalisation and embedding calls are recorded,
parameters that broadcast over the batch get a copy for each example, and a probe must equal the general path. The probe
also finds calls with examples in the second dimension, as in `nn.MultiheadAttention` (tokens, examples, ...).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.func import functional_call

from attacks.core.labels import random_labels
from attacks.core.matching.comparison import Comparison, GeneralComparison, Gradients
from attacks.core.matching.ghost_figures import GhostFigures, GhostLayout, is_single, target_of
from attacks.core.matching.simulated_client import SimulatedClient
from attacks.core.matching.unknowns import NOTHING, Values, flat, map_tensors
from attacks.core.matching.watched_calls import Outer, Part, Watch, combine_parts
from fedsim.core.types import Loss, Masks, Observation

_AGREES = 1e-4  # relative; single-precision sums in another order differ by less, a missed call by more
_NEGLIGIBLE = 1e-6


class GhostComparison:
    """Compares all rows in a single computation, for models that do not mix the examples of a batch."""

    name = "ghost"

    def __init__(
        self, client: SimulatedClient, observations: Sequence[Observation], second: frozenset[str] = frozenset()
    ) -> None:
        """Factor the observed gradients that have low rank.

        Args:
            client: model, loss and sites.
            observations: the victims.
            second: parameters whose calls have the examples in the second dimension, flattened or not.
        """
        self._client = client
        self._second = second
        self._names = {id(client.model.get_parameter(name)): name for name in client.names}
        self._adds_up = _adds_up(client.loss, observations[0])
        self.like = next(iter(client.parameters.values()))
        tensors = [o.update.tensors for o in observations]
        self._targets = {n: target_of([t[n].to(self.like) for t in tensors]) for n in client.names}
        self._layouts: dict[tuple[bool, ...], GhostLayout] = {}
        norms = [[float(t[n].double().square().sum()) for n in client.names] for t in tensors]
        self._norms = torch.tensor(norms, dtype=torch.float64).to(self.like)

    def gradients(
        self, inputs: Tensor, masks: Masks, labels: Tensor, victims: Sequence[int], variables: Values = NOTHING
    ) -> Gradients:
        """Run all rows as a single batch."""
        parts = self.parts(inputs, masks, labels, variables)
        kinds = tuple(is_single(part) for part in parts.values())
        layout = self._layouts.get(kinds)
        if layout is None:
            layout = self._layouts[kinds] = GhostLayout(parts, self._targets)
        return GhostFigures(parts, self._targets, layout, self._norms, list(victims))

    def parts(
        self, inputs: Tensor, masks: Masks, labels: Tensor, variables: Values = NOTHING
    ) -> dict[str, Outer | Tensor]:
        """Return the parts of the gradients from every recorded call, by parameter."""
        watch = Watch(self._names, self._second, *inputs.shape[:2])
        copies = self._copies(inputs.shape[0] * inputs.shape[1])
        rows = tuple(mask.flatten(0, 1) for mask in masks)
        with watch, self._client.apply_masks(rows, map_tensors(variables, lambda value: value.flatten(0, 1))):
            dummies = inputs.flatten(0, 1)
            outputs = functional_call(self._client.model, copies, (dummies,)) if copies else self._client.model(dummies)
        loss = self._loss(outputs.unflatten(0, inputs.shape[:2]), labels)
        wanted = [*(call.output for call in watch.calls), *copies.values()]
        is_descent = any(tensor.requires_grad for tensor in (inputs, *masks, *flat(variables)))
        deltas = torch.autograd.grad(loss, wanted, create_graph=is_descent, materialize_grads=True)
        parts: dict[str, list[Part]] = {name: [] for name in self._client.names}
        for call, delta in zip(watch.calls, deltas, strict=False):
            for name, part in call.parts(delta).items():
                parts[name].append(part)
        for name, delta in zip(copies, deltas[len(watch.calls) :], strict=True):
            parts[name].append(delta.unflatten(0, inputs.shape[:2]).sum(1))
        return {n: combine_parts(p) for n, p in parts.items()}

    def _copies(self, examples: int) -> dict[str, Tensor]:
        """Return a copy per example of each parameter with a first dimension of 1, such as position embeddings."""
        return {
            name: parameter.expand(examples, *parameter.shape[1:]).requires_grad_()
            for name, parameter in self._client.parameters.items()
            if parameter.ndim > 1 and parameter.shape[0] == 1
        }

    def _loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if self._adds_up:
            return self._client.loss(outputs.flatten(0, 1), labels.flatten(0, 1)) * len(outputs)
        return torch.vmap(self._client.loss)(outputs, labels).sum()


class CompiledComparison(GhostComparison):
    """The same comparison, traced into plain operations and compiled by torch, once for every number of rows.

    Compilation of a transformer needs minutes; it pays only for long searches on many victims.
    """

    name = "compiled"

    def __init__(self, ghost: GhostComparison) -> None:
        """Copy the state of a comparison that fits the model."""
        self.__dict__.update(vars(ghost))
        self._compiled: dict[torch.Size, Callable[..., dict[str, Outer | Tensor]]] = {}

    def parts(
        self, inputs: Tensor, masks: Masks, labels: Tensor, variables: Values = NOTHING
    ) -> dict[str, Outer | Tensor]:
        """Run the compiled trace."""
        from torch.fx.experimental.proxy_tensor import make_fx  # noqa: PLC0415 - few searches are compiled

        if inputs.shape not in self._compiled:
            parts = super().parts

            def plain(
                inputs: Tensor, masks: Masks, labels: Tensor, variables: dict[str, Masks]
            ) -> dict[str, Outer | Tensor]:
                return parts(inputs, masks, labels, variables)

            self._compiled[inputs.shape] = torch.compile(make_fx(plain)(inputs, masks, labels, dict(variables)))
        return self._compiled[inputs.shape](inputs, masks, labels, dict(variables))


def fastest(
    client: SimulatedClient,
    observations: Sequence[Observation],
    examples: int,
    masks: Masks,
    generator: torch.Generator,
    variables: Values = NOTHING,
) -> Comparison:
    """Return the ghost comparison if it equals the general comparison on a probe of two rows, else the latter.

    Parameters with differing results are tried with the examples in the second dimension.

    Args:
        client: model, loss and sites.
        observations: the victims.
        examples: number of examples in one row.
        masks: any masks of one row; only their shapes are used.
        generator: random source of the probe.
        variables: any values of other unknowns of one row; only their shapes are used.
    """
    general = GeneralComparison(client, observations)
    if not client.wire.is_plain:
        return general
    first = observations[0]
    like = general.like
    inputs = torch.randn((2, examples, *first.spec.shape), generator=generator, dtype=torch.float64).to(like)
    labels = random_labels(first, 2 * examples, generator).unflatten(0, (2, examples)).to(like.device)
    random_masks = tuple(torch.rand((2, *mask.shape), generator=generator).to(like) for mask in masks)
    more_variables = map_tensors(variables, lambda value: torch.rand((2, *value.shape), generator=generator).to(like))
    theirs = general.gradients(inputs, random_masks, labels, [0, 0], more_variables)
    second: frozenset[str] = frozenset()
    for _ in range(2):
        try:
            ghost = GhostComparison(client, observations, second)
            differing = _find_differences(ghost.gradients(inputs, random_masks, labels, [0, 0], more_variables), theirs)
        except Exception:  # an unusual model may raise any exception here; the general path handles it
            return general
        if not bool(differing.any()):
            return ghost
        second = frozenset(name for name, differs in zip(client.names, differing.tolist(), strict=True) if differs)
    return general


def agrees(ours: Gradients, theirs: Gradients) -> bool:
    """Return whether two paths compute equal results for all tensors."""
    return not bool(_find_differences(ours, theirs).any())


def _find_differences(ours: Gradients, theirs: Gradients) -> Tensor:
    """Return the mask of tensors with differing results, shape (T,). A sum over tensors would hide a wrong bias."""
    squared, products = theirs.squared_norms(), (theirs.squared_norms() * theirs.observed_squared_norms()).sqrt()
    errors = [((ours.squared_norms() - squared).abs(), squared), ((ours.inner() - theirs.inner()).abs(), products)]
    agree = [error <= _AGREES * (size + _NEGLIGIBLE * size.max()) for error, size in errors]
    return ~(agree[0] & agree[1]).all(0)


def _adds_up(loss: Loss, observation: Observation) -> bool:
    """Return whether the loss of several rows is the mean of their losses. Then a single call serves all rows."""
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn((2, 3, observation.spec.classes), generator=generator, dtype=torch.float64)
    if observation.task.label_kind == "class":  # one class per row of outputs, also if rows are tokens
        observation = replace(observation, label_shape=())
    labels = random_labels(observation, 6, generator).unflatten(0, (2, 3))
    mean_loss = (loss(outputs[0], labels[0]) + loss(outputs[1], labels[1])) / 2
    return bool(torch.isclose(loss(outputs.flatten(0, 1), labels.flatten(0, 1)), mean_loss, rtol=1e-9))
