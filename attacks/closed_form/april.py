"""april: solve for a single image of a vision transformer whose attention reads the embedded tokens directly (APRIL).

Idea: if only the query, key and value projections read the tokens, the tokens' gradient is A = dL/dpos. With the
    gradients of the projections this gives linear equations for the tokens. The embedding E maps tokens back to
    patches.
Equation: A^T z = Wq^T dWq + Wk^T dWk + Wv^T dWv, with tokens z = E x + b + pos (n tokens, d features).
Assumes: honest-but-curious server, an exact gradient of a single image; labels granted or inferred. The gradient of E
    may be hidden, which closed-form-vit needs. Dropout after the positions makes the equation bilinear.
Recovers: the exact image, the label, and the mask after the positions, from zeros of A.
Fails: a residual connection around or a normalisation in front of the attention; more tokens than features; fewer
    features than entries of a patch; a rank-deficient A. With dropout it needs about twice as many features as tokens.
Source: Lu et al. 2022, arXiv 2112.14087.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor, nn

from attacks.core.gradient_distance import verdict
from attacks.core.labels import blank_labels
from attacks.core.patches import Patches, patch_projection
from attacks.core.pixels import pixel_box
from attacks.core.preconditions import one_gradient_only
from attacks.core.results import no_guess
from attacks.core.targets.reading import label_guess
from attacks.core.tolerances import TWO_WAYS
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Effort, LabelFreeAttack, Tables
from fedsim.core.nets.masks import inject_masks, without_dropout
from fedsim.core.registry import attack
from fedsim.core.types import Config, Observation, OnStep, Reconstruction, Step

_RIDGE = 1e-10


class AprilConfig(Config):
    """Settings of APRIL. All but `rank_tolerance` are used only if tokens are dropped out."""

    sweeps: int = Field(default=200, ge=1, description="sweeps of alternating least squares per restart")
    restarts: int = Field(
        default=8, ge=1, description="restarts of alternating least squares; the first solution is returned"
    )
    solved: float = Field(
        default=1e-6, gt=0, lt=1, description="relative residual below which alternating least squares has solved it"
    )
    rank_tolerance: float = Field(
        default=1e-10, gt=0, lt=1, description="singular values below this share of the largest count as zero"
    )


class _Embedding(NamedTuple):
    patches: Patches
    positions: str
    first: int  # row of the first patch
    tokens: int
    weights: tuple[str, ...]  # of all projections that read the tokens
    site: int | None  # dropout between positions and projections


class _Seen(NamedTuple):
    weight: str
    tokens: Tensor  # (n, d)


class _Solution(NamedTuple):
    tokens: Tensor  # (n, d), zero where dropped
    residual: float


@final
@attack(
    "april",
    summary="exact image from an attention that sees the embedded patches",
    paper="2112.14087",
    fidelity="reproduction",
)
class April(LabelFreeAttack[AprilConfig]):
    """Solves for the tokens by least squares, then for the patches."""

    effort: ClassVar[Effort] = "algebra"
    example: ClassVar[Tables] = {
        "model": {"name": "patch-attention", "dropout": 0.25},
        "federation": {"batch_size": 1},
    }

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several steps or images, and models in which other layers read the embedded tokens."""
        if (observation.batch_size or 1) > 1:
            return (
                f"the position embedding sums the tokens of {observation.batch_size} images; the closed form "
                "needs a single image"
            )
        reason = one_gradient_only(observation)
        if reason is not None:
            return reason
        try:
            _embedding(observation)
        except NotApplicable as reason:
            return str(reason)
        return None

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Solve in closed form, or by alternating least squares if dropout hides parts of the equation."""
        embedding = _embedding(observation)
        width = embedding.patches.width
        slopes = observation.update.tensors[embedding.positions].double().reshape(-1, width)
        right = _right_side(observation, embedding)
        kept = slopes != 0 if embedding.site is not None else torch.ones_like(slopes, dtype=torch.bool)
        singular = torch.linalg.svdvals(slopes)
        rank = int((singular > self.config.rank_tolerance * singular[0]).sum())
        diagnostics = {
            "numerical rank": float(rank),
            "condition number": float(singular[0] / singular[-1]),
            "zero share": float((~kept).double().mean()),
            "patches short of entries": float(_short(embedding, kept)),
        }
        if rank < embedding.tokens:
            reason = f"gave up: the gradient of '{embedding.positions}' has rank {rank} for {embedding.tokens} tokens"
            return no_guess(observation, reason, diagnostics=diagnostics)
        is_closed = bool(kept.all())
        solution = _solve(slopes, right) if is_closed else self._alternate(slopes, right, kept, generator)
        image = _image(observation, embedding, solution.tokens, kept)
        if not is_closed and solution.residual > self.config.solved:
            image = image.clamp(*(bound.to(image.dtype) for bound in pixel_box(observation)))
        masks = _masks(observation, embedding, kept)
        labels, read = label_guess(observation, image, masks)
        residual = (solution.residual, "relative residual of the attention's equation")
        objective, meaning = verdict(observation, image, labels, masks, residual)
        on_step(Step(0, 1, 1, objective, objective, image))
        return Reconstruction.of(
            inputs=image,
            labels=labels,
            masks=masks or None,
            objective=objective,
            iterations=1,
            stopped=self._stop(is_closed, solution.residual, _short(embedding, kept)),
            notes=(
                f"'{embedding.positions}' is added to the output of '{embedding.patches.name}' and seen by "
                + ", ".join(embedding.weights),
                f"{int((~kept).sum())} of {kept.numel()} token entries read off as dropped",
                meaning,
                *read,
            ),
            diagnostics={**diagnostics, "residual": solution.residual},
        )

    def _alternate(self, slopes: Tensor, right: Tensor, kept: Tensor, generator: torch.Generator) -> _Solution:
        """Return the solution of the first restart with a small enough residual, else the best solution."""
        size = slopes[kept].square().mean().sqrt()
        first = torch.zeros_like(slopes)
        best: _Solution | None = None
        for _ in range(self.config.restarts):
            solution = _alternating(slopes + first * ~kept, right, kept, self.config.sweeps)
            best = solution if best is None or solution.residual < best.residual else best
            if best.residual < self.config.solved:
                break
            first = size * torch.randn(slopes.shape, generator=generator, dtype=slopes.dtype)
        assert best is not None
        return best

    def _stop(self, is_closed: bool, residual: float, short: int) -> str:
        if is_closed:
            return "solved in closed form"
        if residual < self.config.solved and short:
            return f"solved by alternating least squares, but {short} patches keep too few entries of their tokens"
        if residual < self.config.solved:
            return "solved by alternating least squares"
        return "a start for gradient matching, not a solution: dropout hides too much"


def _embedding(observation: Observation) -> _Embedding:
    """Return the tensors and layers of the equation.

    Raises:
        NotApplicable: with the reason why no such equation holds, or why it has no unique solution.
    """
    patches = patch_projection(observation)
    if patches is None:
        raise NotApplicable("no layer projects patches of the image")
    entries = patches.pixels.shape[1]
    if entries > patches.width:
        raise NotApplicable(f"a patch has {entries} entries for {patches.width} features of a token")
    generator = torch.Generator().manual_seed(0)
    example = torch.randn((1, *observation.spec.shape), generator=generator, dtype=torch.float64)
    model = copy.deepcopy(observation.model).double().train()
    with torch.no_grad(), without_dropout():  # most models are refused here, before the slow checks
        _positions(model, patches, example, _projections(model, example)[0])
    _stir(model)
    with without_dropout():
        seen, outputs = _projections(model, example)
    positions, first, tokens = _positions(model, patches, example, seen)
    weights = tuple(dict.fromkeys(one.weight for one in seen if _equal(one.tokens, tokens)))
    if len(tokens) > patches.width:
        raise NotApplicable(f"{len(tokens)} tokens for {patches.width} features: fewer equations than unknowns")
    wanted = [model.get_parameter(name) for name in (positions, *weights)]
    slopes, *gradients = torch.autograd.grad(observation.loss(outputs, blank_labels(observation, 1)), wanted)
    right = torch.stack([weight.T @ gradient for weight, gradient in zip(wanted[1:], gradients, strict=True)]).sum(0)
    if not _equal(slopes.reshape(-1, patches.width).T @ tokens, right):
        raise NotApplicable(
            f"more than {', '.join(weights)} sees the embedded tokens, for example a residual connection"
        )
    missing = [name for name in (positions, *weights) if name not in observation.update.tensors]
    if missing:
        raise NotApplicable(f"the gradient of '{missing[0]}' is hidden or not trained")
    site = _site(observation, model, example, weights[0])
    return _Embedding(patches, positions, first, len(tokens), weights, site)


def _stir(model: nn.Module) -> None:
    """Change all weights a little: a layer of zeros blocks the gradient, and zero tensors are indistinguishable."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.requires_grad_().parameters():
        parameter.data.add_(0.02 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


def _projections(model: nn.Module, example: Tensor) -> tuple[list[_Seen], Tensor]:
    """Return the weights multiplied by whole token sequences (n, d), with these tokens; and the model's outputs."""
    seen: list[_Seen] = []

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if isinstance(module, nn.Linear):
            given, weight = [inputs[0]], f"{name}.weight"
        else:
            given, weight = [*inputs, *named.values()][:3], f"{name}.in_proj_weight"
        tokens = given[0].detach().squeeze(0 if given[0].shape[0] == 1 else 1)
        if tokens.ndim == 2 and all(other is given[0] for other in given):  # noqa: PLR2004 - tokens, features
            seen.append(_Seen(weight, tokens))

    handles = [
        module.register_forward_pre_hook(lambda m, i, k, name=name: note(name, m, i, k), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or _packs(module)
    ]
    outputs = model(example)
    for handle in handles:
        handle.remove()
    return seen, outputs


def _packs(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None


def _positions(model: nn.Module, patches: Patches, example: Tensor, seen: list[_Seen]) -> tuple[str, int, Tensor]:
    """Return the parameter added to the projected patches, the row of the first patch, and the tokens (n, d)."""
    projection = model.get_submodule(patches.name)
    assert isinstance(projection, nn.Linear | nn.Conv2d)
    projected = patches.cut(example) @ projection.weight.flatten(1).T
    projected = projected if projection.bias is None else projected + projection.bias
    for _, tokens in seen:
        if tokens.shape[1] != patches.width or len(tokens) < len(projected):
            continue
        for name, parameter in model.named_parameters():
            if parameter.numel() != tokens.numel() or parameter.shape[-1] != patches.width:
                continue
            rows = tokens - parameter.detach().reshape(tokens.shape)
            for first in range(len(tokens) - len(projected) + 1):
                if _equal(rows[first : first + len(projected)], projected):
                    return name, first, tokens
    raise NotApplicable("no linear layer sees the patches with their positions as they are: a normalisation intervenes")


def _site(observation: Observation, model: nn.Module, example: Tensor, weight: str) -> int | None:
    """Return the index of the dropout between positions and projections, or None without such a dropout."""

    def tokens(masks: tuple[Tensor, ...]) -> Tensor:
        with torch.no_grad(), inject_masks(observation.sites, masks):
            return next(
                projection.tokens for projection in _projections(model, example)[0] if projection.weight == weight
            )

    ones = tuple(torch.ones(site.shape) for site in observation.sites)
    if _equal(tokens(tuple(torch.zeros_like(mask) for mask in ones)), tokens(ones)):
        return None
    for index, mask in enumerate(ones):
        only = (*ones[:index], torch.zeros_like(mask), *ones[index + 1 :])
        if tokens(only).shape.numel() == mask.numel() and not bool(tokens(only).any()):
            return index
    raise NotApplicable("the tokens are dropped out in front of their positions, or not entry by entry")


def _right_side(observation: Observation, embedding: _Embedding) -> Tensor:
    """Return the sum of W^T dW over the projections, shape (d, d)."""
    parts = [
        observation.model.get_parameter(name).detach().double().T @ observation.update.tensors[name].double()
        for name in embedding.weights
    ]
    return torch.stack(parts).sum(0)


def _solve(slopes: Tensor, right: Tensor) -> _Solution:
    """Return the least-squares solution z of slopes^T z = right; slopes (n, d), right (d, d)."""
    tokens = torch.linalg.lstsq(slopes.T, right, driver="gelsd").solution
    return _Solution(tokens, _residual(slopes, tokens, right))


def _alternating(slopes: Tensor, right: Tensor, kept: Tensor, sweeps: int) -> _Solution:
    """Solve in turn for z where it was kept, and for the gradient where it was dropped; all shapes (n, d)."""
    known = slopes * kept
    tokens = torch.zeros_like(slopes)
    for _ in range(sweeps):
        tokens = _columns(slopes @ slopes.T, slopes @ right, kept)
        gram = tokens @ tokens.T
        slopes = known + _columns(gram, tokens @ right.T - gram @ known, ~kept)
    return _Solution(tokens, _residual(slopes, tokens, right))


def _columns(gram: Tensor, targets: Tensor, free: Tensor) -> Tensor:
    """Solve gram x = target for each column (n,) of `targets` with x zero where not `free`; shapes (n, n), (n, d)."""
    mask = free.T.double()  # (d, n)
    ridge = _RIDGE * gram.diagonal().mean()
    systems = gram * mask[:, :, None] * mask[:, None, :] + torch.diag_embed(1.0 - mask + ridge * mask)
    return torch.linalg.solve(systems, targets.T * mask).T * mask.T


def _residual(slopes: Tensor, tokens: Tensor, right: Tensor) -> float:
    return float((slopes.T @ tokens - right).norm() / right.norm())


def _image(observation: Observation, embedding: _Embedding, tokens: Tensor, kept: Tensor) -> Tensor:
    """Solve for the patches from the kept entries of their tokens, and assemble the image."""
    patches = embedding.patches
    projection = observation.model.get_submodule(patches.name)
    assert isinstance(projection, nn.Linear | nn.Conv2d)
    weight = projection.weight.detach().double().flatten(1)
    positions = observation.model.get_parameter(embedding.positions).detach().double().reshape(-1, patches.width)
    projected = tokens - positions
    projected = projected if projection.bias is None else projected - projection.bias.detach().double()
    rows = slice(embedding.first, embedding.first + len(patches.pixels))
    mask = kept[rows].double()
    solution = torch.linalg.lstsq(weight * mask[:, :, None], (projected[rows] * mask)[:, :, None], driver="gelsd")
    image = patches.joined(solution.solution.squeeze(2), observation.spec.shape)
    return image.to(next(observation.model.parameters()).dtype)


def _short(embedding: _Embedding, kept: Tensor) -> int:
    """Return the number of patches with more entries than their tokens kept."""
    count, entries = embedding.patches.pixels.shape
    return int((kept[embedding.first : embedding.first + count].sum(1) < entries).sum())


def _masks(observation: Observation, embedding: _Embedding, kept: Tensor) -> tuple[Tensor, ...] | None:
    """Return the mask of the tokens if the model has no other dropout site, else None; () without dropout."""
    if embedding.site is None:
        return None if observation.sites else ()
    if len(observation.sites) > 1:
        return None
    dtype = next(observation.model.parameters()).dtype
    return (kept.to(dtype).view(observation.sites[embedding.site].shape),)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).norm() <= TWO_WAYS * other.norm())
