"""The fast path: gradients are compared without ever being built.

The gradient of a linear map is dW = sum_n delta_n z_n^T, with inputs z and output gradients delta. So <dW, G> = sum_n
delta_n^T G z_n and |dW|^2 = sum_nm <delta_n, delta_m> <z_n, z_m> need activations only (the norm trick of Goodfellow
2015, arXiv 1510.01799), and rows share every matrix product. An observed gradient of low rank is kept as its factors.

Whether a model fits is found out, not declared: its linear, convolution, normalisation and embedding calls are watched,
parameters that broadcast over the batch get a copy an example, and the result must equal the general path on a probe.
The probe also tells where the examples are second, as inside `nn.MultiheadAttention`: (tokens, examples, features).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from attacks.gradient_matching._comparison import Comparison, GeneralComparison, Gradients, Setting
from fedsim.core.types import Loss, Masks, Observation

_SAME = 1e-4
_SKETCHES = (16, 96)
_NEGLIGIBLE = 1e-6
_FACTORED = {torch.float32: 3e-7, torch.float64: 1e-13}


class _Outer(NamedTuple):
    """The gradient (out, in) of each row as sum_n delta_n z_n^T."""

    inputs: Tensor  # (R, n, in)
    deltas: Tensor  # (R, n, out)

    def whole(self) -> Tensor:
        """Return the gradients themselves, shape (R, out, in)."""
        return self.deltas.mT @ self.inputs

    def squared(self) -> Tensor:
        """Return the squared norms, shape (R,), by the cheaper of the two ways."""
        (count, wide), tall = self.inputs.shape[1:], self.deltas.shape[2]
        if count == 1:
            return self.inputs.square().sum((1, 2)) * self.deltas.square().sum((1, 2))
        if count * (wide + tall) > wide * tall:
            return self.whole().square().sum((1, 2))
        return ((self.inputs @ self.inputs.mT) * (self.deltas @ self.deltas.mT)).sum((1, 2))


_Part = _Outer | Tensor  # a gradient (R, *shape) that is cheap to build stays a tensor


class _Factors(NamedTuple):
    """Observed gradients of V victims as left (V, out, r) times right (V, in, r) transposed."""

    left: Tensor
    right: Tensor


class _Call(NamedTuple):
    """A watched call: what it returned, and its parameters' gradients, given that of its output."""

    output: Tensor
    parts: Callable[[Tensor], dict[str, _Part]]


class _Unsuited(Exception):
    """The model has a call that this path does not know."""


class GhostComparison:
    """All rows in one computation, for models that do not mix the examples of a batch."""

    name = "ghost"

    def __init__(
        self, setting: Setting, observations: Sequence[Observation], second: frozenset[str] = frozenset()
    ) -> None:
        """Factor the observed gradients where they have low rank.

        Args:
            setting: model, loss and sites.
            observations: the victims.
            second: parameters whose calls see the examples in the second dimension, also of a flattened one.
        """
        self._setting = setting
        self._second = second
        self._names = {id(setting.model.get_parameter(name)): name for name in setting.names}
        self._adds_up = _adds_up(setting.loss, observations[0].spec.classes)
        self.like = next(iter(setting.parameters.values()))
        tensors = [o.update.tensors for o in observations]
        self._targets = {n: _target([t[n].to(self.like) for t in tensors]) for n in setting.names}
        self._vectors: dict[tuple[str, ...], _Vectors] = {}
        norms = [[float(t[n].double().square().sum()) for n in setting.names] for t in tensors]
        self._norms = torch.tensor(norms, dtype=torch.float64).to(self.like)

    def gradients(self, inputs: Tensor, masks: Masks, labels: Tensor, victims: Sequence[int]) -> Gradients:
        """Run all rows as one batch."""
        parts = self.parts(inputs, masks, labels)
        single = tuple(n for n, p in parts.items() if _is_single(p) and isinstance(self._targets[n], _Factors))
        if single and single not in self._vectors:
            self._vectors[single] = _Vectors([cast("_Factors", self._targets[name]) for name in single])
        return _Ghosts(parts, self._targets, self._vectors.get(single), single, self._norms, list(victims))

    def parts(self, inputs: Tensor, masks: Masks, labels: Tensor) -> dict[str, _Outer | Tensor]:
        """Collect what every watched call saw, by parameter."""
        watch = _Watch(self._names, self._second, *inputs.shape[:2])
        copies = self._copies(inputs.shape[0] * inputs.shape[1])
        with watch, self._setting.dropping(tuple(mask.flatten(0, 1) for mask in masks)):
            flat = inputs.flatten(0, 1)
            outputs = functional_call(self._setting.model, copies, (flat,)) if copies else self._setting.model(flat)
        loss = self._loss(outputs.unflatten(0, inputs.shape[:2]), labels)
        wanted = [*(call.output for call in watch.calls), *copies.values()]
        is_descent = any(own.requires_grad for own in (inputs, *masks))
        deltas = torch.autograd.grad(loss, wanted, create_graph=is_descent, materialize_grads=True)
        parts: dict[str, list[_Part]] = {name: [] for name in self._setting.names}
        for call, delta in zip(watch.calls, deltas, strict=False):
            for name, part in call.parts(delta).items():
                parts[name].append(part)
        for name, delta in zip(copies, deltas[len(watch.calls) :], strict=True):
            parts[name].append(delta.unflatten(0, inputs.shape[:2]).sum(1))
        return {n: _joined(p) for n, p in parts.items()}

    def _copies(self, examples: int) -> dict[str, Tensor]:
        """A copy an example of every parameter that begins with a dimension of 1, such as position embeddings."""
        return {
            name: parameter.expand(examples, *parameter.shape[1:]).requires_grad_()
            for name, parameter in self._setting.parameters.items()
            if parameter.ndim > 1 and parameter.shape[0] == 1
        }

    def _loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if self._adds_up:
            return self._setting.loss(outputs.flatten(0, 1), labels.flatten(0, 1)) * len(outputs)
        return torch.vmap(self._setting.loss)(outputs, labels).sum()


class CompiledComparison(GhostComparison):
    """The same, traced into plain operations and compiled by torch, once for every number of rows.

    Compiling takes minutes for a transformer; it pays for long searches on many victims only.
    """

    name = "compiled"

    def __init__(self, ghost: GhostComparison) -> None:
        """Take over what a comparison that fits the model has prepared."""
        self.__dict__.update(vars(ghost))
        self._compiled: dict[torch.Size, Callable[..., dict[str, _Outer | Tensor]]] = {}

    def parts(self, inputs: Tensor, masks: Masks, labels: Tensor) -> dict[str, _Outer | Tensor]:
        """Run the compiled trace."""
        from torch.fx.experimental.proxy_tensor import make_fx  # noqa: PLC0415 - few searches are compiled

        if inputs.shape not in self._compiled:
            parts = super().parts

            def plain(inputs: Tensor, masks: Masks, labels: Tensor) -> dict[str, _Outer | Tensor]:
                return parts(inputs, masks, labels)

            self._compiled[inputs.shape] = torch.compile(make_fx(plain)(inputs, masks, labels))
        return self._compiled[inputs.shape](inputs, masks, labels)


def fastest(
    setting: Setting, observations: Sequence[Observation], examples: int, masks: Masks, generator: torch.Generator
) -> Comparison:
    """Return the ghost comparison where it equals the general one on a probe of two rows, else the general one.

    Parameters whose figures differ are tried with the examples second.

    Args:
        setting: model, loss and sites.
        observations: the victims.
        examples: of one row.
        masks: some masks of one row, whose shapes count.
        generator: for the probe.
    """
    general = GeneralComparison(setting, observations)
    if not setting.wire.is_plain:
        return general
    first = observations[0]
    like = general.like
    inputs = torch.randn((2, examples, *first.spec.shape), generator=generator, dtype=torch.float64).to(like)
    labels = torch.randint(first.spec.classes, (2, examples), generator=generator).to(like.device)
    drawn = tuple(torch.rand((2, *mask.shape), generator=generator).to(like) for mask in masks)
    theirs = general.gradients(inputs, drawn, labels, [0, 0])
    second: frozenset[str] = frozenset()
    for _ in range(2):
        try:
            ghost = GhostComparison(setting, observations, second)
            ours = ghost.gradients(inputs, drawn, labels, [0, 0])
        except Exception:  # whatever a strange model raises here, the general path is the answer
            return general
        differing = _differing(ours, theirs)
        if not bool(differing.any()):
            return ghost
        second = frozenset(name for name, differs in zip(setting.names, differing.tolist(), strict=True) if differs)
    return general


def agrees(ours: Gradients, theirs: Gradients) -> bool:
    """Say whether two paths compute the same figures of all tensors."""
    return not bool(_differing(ours, theirs).any())


def _differing(ours: Gradients, theirs: Gradients) -> Tensor:
    """Which tensors have other figures, shape (T,): a wrong bias must not hide behind a large matrix."""
    squared, products = theirs.squared(), (theirs.squared() * theirs.observed()).sqrt()
    errors = [((ours.squared() - squared).abs(), squared), ((ours.inner() - theirs.inner()).abs(), products)]
    agree = [error <= _SAME * (size + _NEGLIGIBLE * size.max()) for error, size in errors]
    return ~(agree[0] & agree[1]).all(0)


class _Vectors:
    """Observed gradients of T tensors whose rows have one outer product each, their factors side by side.

    Small models then take a few operations where one call for each tensor would take dozens.
    """

    def __init__(self, targets: list[_Factors]) -> None:
        self.left, self._outs = _side_by_side([target.left for target in targets])
        self.right, self._ins = _side_by_side([target.right for target in targets])

    def inner(self, whole: _Outer, victims: list[int]) -> Tensor:
        """Return inner products (R, T); `whole` holds deltas and inputs of all T tensors, one after the other."""
        ours = (whole.deltas * _of(self.left, victims)) @ self._outs
        return (ours * ((whole.inputs * _of(self.right, victims)) @ self._ins)).sum(1)

    def squared(self, whole: _Outer) -> Tensor:
        """Return squared norms (R, T)."""
        return ((whole.deltas.square() @ self._outs) * (whole.inputs.square() @ self._ins))[:, 0]


def _side_by_side(factors: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return factors (V, size, r) as one (V, greatest r, sum of sizes), and whose each entry is, (sum of sizes, T)."""
    rank = max(factor.shape[2] for factor in factors)
    joined = torch.cat([F.pad(factor.mT, (0, 0, 0, rank - factor.shape[2])) for factor in factors], 2)
    owner = torch.arange(len(factors)).repeat_interleave(torch.tensor([factor.shape[1] for factor in factors]))
    return joined, F.one_hot(owner, len(factors)).to(joined)


class _Ghosts:
    """Figures of R rows from the parts of their gradients; those of the `single` tensors are computed together."""

    def __init__(
        self,
        parts: dict[str, _Part],
        targets: dict[str, _Factors | Tensor],
        vectors: _Vectors | None,
        single: tuple[str, ...],
        norms: Tensor,
        victims: list[int],
    ) -> None:
        self._targets = targets
        self._vectors = vectors
        self._norms = norms
        self._victims = victims
        together = [cast("_Outer", parts[name]) for name in single]
        self._whole = _Outer(*(torch.cat(side, 2) for side in zip(*together, strict=True))) if together else None
        self._others = {name: part for name, part in parts.items() if name not in single}
        names = [*single, *self._others]
        self._order = None if names == list(parts) else [names.index(name) for name in parts]

    def inner(self) -> Tensor:
        others = [_inner(part, self._targets[n], self._victims) for n, part in self._others.items()]
        if self._vectors is None or self._whole is None:
            return torch.stack(others, 1)
        return self._in_order(self._vectors.inner(self._whole, self._victims), others)

    def squared(self) -> Tensor:
        others = [
            part.squared() if isinstance(part, _Outer) else part.square().flatten(1).sum(1)
            for part in self._others.values()
        ]
        if self._vectors is None or self._whole is None:
            return torch.stack(others, 1)
        return self._in_order(self._vectors.squared(self._whole), others)

    def _in_order(self, single: Tensor, others: list[Tensor]) -> Tensor:
        joined = torch.cat([single, torch.stack(others, 1)], 1) if others else single
        return joined if self._order is None else joined[:, self._order]

    def difference(self) -> Tensor:
        return self.squared() - 2.0 * self.inner() + self.observed()

    def observed(self) -> Tensor:
        return self._norms[self._victims]


def _inner(part: _Part, target: _Factors | Tensor, victims: list[int]) -> Tensor:
    if isinstance(target, Tensor):
        values = _of(target, victims)
        if isinstance(part, _Outer):
            return ((part.deltas @ values) * part.inputs).sum((1, 2))
        return (part.flatten(1) * values.flatten(1)).sum(1)
    left, right = _of(target.left, victims), _of(target.right, victims)
    if isinstance(part, _Outer):
        return (_product(part.deltas, left) * _product(part.inputs, right)).sum((1, 2))
    return ((part.flatten(2) @ right) * left).sum((1, 2))


def _is_single(part: _Part) -> bool:
    """Whether each row's gradient is one outer product."""
    return isinstance(part, _Outer) and part.inputs.shape[1] == 1


def _product(one: Tensor, other: Tensor) -> Tensor:
    """Return one @ other; single rows element by element, for which batched products of matrices are slow."""
    if one.shape[1] == 1:
        return (one.mT * other).sum(1, keepdim=True)
    return one @ other


def _of(values: Tensor, victims: list[int]) -> Tensor:
    """Rows of `values` that belong to the victims, without a copy where all rows are of one or each of its own."""
    if len(values) == 1 or victims == list(range(len(values))):
        return values
    return values[victims]


def _target(tensors: list[Tensor]) -> _Factors | Tensor:
    """Observed gradients of all victims: as factors when all have low rank, else side by side, matrices flattened."""
    if tensors[0].ndim == 1:
        return torch.stack(tensors)
    stacked = torch.stack([tensor.flatten(1) for tensor in tensors])
    sides = stacked.shape[1:]
    for width in _SKETCHES:
        factors = _factored(stacked, min(width, *sides))
        if factors is not None:
            return factors if factors.left.shape[2] * sum(sides) < math.prod(sides) else stacked
    return stacked


def _factored(matrices: Tensor, width: int) -> _Factors | None:
    """Factors of matrices (V, out, in) up to rounding, of the least common rank below `width`, or None."""
    exact = matrices.double()
    sketch = torch.randn((matrices.shape[2], width), generator=torch.Generator().manual_seed(0)).to(exact)
    left = torch.linalg.qr(exact @ sketch).Q
    right = exact.mT @ left
    norms = exact.flatten(1).norm(dim=1)
    rounding = _FACTORED.get(matrices.dtype, 0.0)
    if bool(((exact - left @ right.mT).flatten(1).norm(dim=1) > rounding * norms).any()):
        return None
    energy, vectors = torch.linalg.eigh(right.mT @ right)  # ascending
    lost = energy.clamp_min(0.0).cumsum(1).sqrt() <= rounding * norms[:, None]
    turned = vectors[:, :, int(lost.sum(1).min()) :]
    return _Factors((left @ turned).to(matrices), (right @ turned).to(matrices))


def _joined(parts: list[_Part]) -> _Part:
    """The gradient of a parameter that is used several times."""
    if not parts:
        raise _Unsuited
    outers = [part for part in parts if isinstance(part, _Outer)]
    if len(outers) == len(parts):
        first, *others = outers
        return _Outer(*(torch.cat(p, 1) for p in zip(*outers, strict=True))) if others else first
    return torch.stack([part.whole() if isinstance(part, _Outer) else part for part in parts]).sum(0)


def _adds_up(loss: Loss, classes: int) -> bool:
    """Whether the loss of several rows together is the mean of theirs: then one call serves all rows."""
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn((2, 3, classes), generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (2, 3), generator=generator)
    apart = (loss(outputs[0], labels[0]) + loss(outputs[1], labels[1])) / 2
    return bool(torch.isclose(loss(outputs.flatten(0, 1), labels.flatten()), apart, rtol=1e-9))


class _Watch(TorchFunctionMode):
    """Notes every call that uses one of the compared parameters."""

    def __init__(self, names: dict[int, str], second: frozenset[str], rows: int, examples: int) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.rows = rows
        self._names = names
        self._second = second
        self._examples = rows * examples

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rule = _RULES.get(func)
        if rule is None:
            return func(*args, **(kwargs or {}))
        return rule(self, *args, **(kwargs or {}))

    def name(self, parameter: Tensor | None) -> str | None:
        """Return the name of a compared parameter."""
        return self._names.get(id(parameter))

    def by_row(self, values: Tensor, features: tuple[int, ...], *names: str | None) -> Tensor:
        """Return values (..., *features) that belong to the named parameters as (rows, n, *features)."""
        flat = values.reshape(-1, *features)
        if self._second.intersection(names):
            flat = flat.unflatten(0, (-1, self._examples)).transpose(0, 1)
        return flat.reshape(self.rows, -1, *features)

    def noted(self, output: Tensor, parts: Callable[[Tensor], dict[str, _Part]]) -> Tensor:
        """Keep a call; an output that depends on no unknown becomes a leaf, so that its gradient can be asked for."""
        output = output if output.requires_grad else output.detach().requires_grad_()
        self.calls.append(_Call(output, parts))
        return output


def _linear(watch: _Watch, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    matrix, shift = watch.name(weight), watch.name(bias)

    def parts(delta: Tensor) -> dict[str, _Part]:
        deltas = watch.by_row(delta, delta.shape[-1:], matrix, shift)
        seen = watch.by_row(inputs, inputs.shape[-1:], matrix, shift)
        return _named({matrix: _Outer(seen, deltas), shift: deltas.sum(1)})

    return watch.noted(F.linear(inputs, weight, bias), parts)


def _conv2d(
    watch: _Watch,
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    if groups != 1 or isinstance(padding, str):
        raise _Unsuited
    matrix, shift = watch.name(weight), watch.name(bias)

    def parts(delta: Tensor) -> dict[str, _Part]:
        windows = F.unfold(inputs, weight.shape[2:], dilation, padding, stride).mT
        deltas = watch.by_row(delta.flatten(2).mT, delta.shape[1:2])
        return _named({matrix: _Outer(watch.by_row(windows, windows.shape[-1:]), deltas), shift: deltas.sum(1)})

    return watch.noted(F.conv2d(inputs, weight, bias, stride, padding, dilation), parts)


def _layer_norm(
    watch: _Watch,
    inputs: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    normalised = F.layer_norm(inputs, normalized_shape, None, None, eps)
    return _scaled(watch, normalised, weight, bias, tuple(normalized_shape))


def _rms_norm(
    watch: _Watch,
    inputs: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    scale = watch.name(weight)
    if weight is None or scale is None:
        return F.rms_norm(inputs, normalized_shape, weight, eps)
    normalised = F.rms_norm(inputs, normalized_shape, None, eps)
    shape = weight.shape

    def parts(delta: Tensor) -> dict[str, _Part]:
        return {scale: watch.by_row(delta * normalised, shape, scale).sum(1)}

    return watch.noted(normalised * weight, parts)


def _group_norm(
    watch: _Watch,
    inputs: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    normalised = F.group_norm(inputs, num_groups, None, None, eps)
    channels = (-1, *(1 for _ in inputs.shape[2:]))
    return _scaled(watch, normalised, weight, bias, channels)


def _scaled(
    watch: _Watch, normalised: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]
) -> Tensor:
    """Return normalised * weight + bias, both viewed as `shape`, and note the call."""
    if weight is None or bias is None:
        raise _Unsuited
    scale, shift = watch.name(weight), watch.name(bias)

    def parts(delta: Tensor) -> dict[str, _Part]:
        def per_row(values: Tensor) -> Tensor:
            values = values if shape[0] != -1 else values.flatten(2).sum(2)
            return watch.by_row(values, weight.shape, scale, shift).sum(1)

        return _named({scale: per_row(delta * normalised), shift: per_row(delta)})

    return watch.noted(normalised * weight.view(shape) + bias.view(shape), parts)


def _embedding(
    watch: _Watch,
    indices: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    table = watch.name(weight)
    if table is None:
        return F.embedding(indices, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    if padding_idx is not None or max_norm is not None or scale_grad_by_freq:
        raise _Unsuited

    def parts(delta: Tensor) -> dict[str, _Part]:
        ones = F.one_hot(indices, len(weight)).to(delta)
        seen, deltas = watch.by_row(ones, ones.shape[-1:], table), watch.by_row(delta, delta.shape[-1:], table)
        return {table: _Outer(deltas, seen)}

    return watch.noted(F.embedding(indices, weight), parts)


_RULES: dict[Any, Callable[..., Tensor]] = {
    F.linear: _linear,
    F.conv2d: _conv2d,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.embedding: _embedding,
}


def _named(parts: dict[str | None, _Part]) -> dict[str, _Part]:
    return {name: part for name, part in parts.items() if name is not None}
