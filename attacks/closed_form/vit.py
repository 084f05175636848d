"""closed-form-vit: solve for a single image from gradients of a vision transformer's position embedding and projection.

Idea: a token is z_t = E x_t + b + pos_t, so dL/dz_t = dL/dpos_t for any later layers; dL/dE is then linear in the
    patches.
Equation: dL/dE = G^T X, G = dL/dpos (N tokens, d features), X the patches (N, entries); solved by least squares.
Assumes: honest-but-curious server, the gradient of a single image, labels granted or inferred; a learned position
    embedding, at most as many patches as features. Dropout right after it keeps the equation, and improves its
    conditioning.
Recovers: the exact image, the label, and the mask of the dropout after the embedding, from zeros of G.
Fails: several images, whose tokens are summed into G; fixed or frozen position embeddings; noise, which allows a coarse
    image at best. A patch that dropout cuts off from the class token in every block comes out grey.
Source: this project's, after Lu et al. 2022, arXiv 2112.14087 (APRIL), which solves the attention instead.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, final

import torch
from torch import Tensor

from attacks.core.gradient_distance import doubts, may_be_exact, verdict
from attacks.core.outlooks import outlook_of
from attacks.core.patches import (
    Patches,
    Positions,
    missing_gradient,
    patch_projection,
    position_embedding,
    rows_of,
)
from attacks.core.preconditions import one_gradient_only
from attacks.core.targets.reading import label_guess
from attacks.core.tolerances import EXACT, LEAST
from fedsim.core.hooks import CostEstimate, Effort, LabelFreeAttack, Tables
from fedsim.core.registry import attack
from fedsim.core.types import Config, Observation, OnStep, Reconstruction, Step

_ZERO = 1e-14  # relative to the largest singular value: a token without a gradient


class _Solution(NamedTuple):
    patches: Tensor  # (N, entries)
    residual: float
    rank: int
    condition: float


@final
@attack(
    "closed-form-vit",
    summary="exact image from the position embedding's gradient; a single image",
    tier="core",
    related="2112.14087",
)
class ClosedFormVit(LabelFreeAttack[Config]):
    """Solves for the patches by least squares."""

    effort: ClassVar[Effort] = "algebra"
    example: ClassVar[Tables] = {
        "model": {"name": "vit-small", "width": 16, "heads": 2, "blocks": 1, "hidden": 16, "dropout": 0.25},
        "federation": {"batch_size": 1},
    }

    def not_applicable(self, observation: Observation) -> str | None:
        """Refuse several steps or images, and models whose position embedding does not give the tokens' gradients."""
        if (observation.batch_size or 1) > 1:
            return (
                f"the position embedding sums the tokens of {observation.batch_size} images; the closed form "
                "needs a single image"
            )
        patches = patch_projection(observation)
        if patches is None:
            return "no layer projects patches of the image"
        positions = position_embedding(observation)
        if positions is None:
            return f"no learned position embedding is added to the output of '{patches.name}'"
        return _unsolvable(observation, patches, positions) or one_gradient_only(observation)

    def outlook(self, observation: Observation) -> CostEstimate:
        """Expect a few gradients: one linear system."""
        return outlook_of(observation, 6.0, 0.92, "the gradients of the positions solve for the patches")

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Solve for the patches and assemble the image."""
        patches = patch_projection(observation)
        assert patches is not None
        positions = position_embedding(observation)
        assert positions is not None
        embedding = observation.update.tensors[positions.name]
        tokens = rows_of(embedding.double(), patches, positions.first)
        solution = _solve(tokens, observation.update.tensors[f"{patches.name}.weight"].double().flatten(1))
        image = patches.assemble_example(solution.patches, observation.spec.shape)
        image = image.to(next(observation.model.parameters()).dtype)
        masks = None if observation.sites else ()
        labels, read = label_guess(observation, image, masks)
        residual = (solution.residual, "relative residual of the least squares")
        objective, meaning = verdict(observation, image, labels, masks, residual)
        note, zeros = _zeros(embedding, solution.residual)
        on_step(Step(0, 1, 1, objective, objective, image))
        return Reconstruction.of(
            inputs=image,
            labels=labels,
            objective=objective,
            iterations=1,
            stop_reason="solved in closed form",
            notes=(
                f"position embedding '{positions.name}', patch projection '{patches.name}'",
                f"condition number {solution.condition:.1f}, residual {solution.residual:.1e}",
                note,
                meaning,
                *read,
                *doubts(observation),
            ),
            diagnostics={
                "numerical rank": float(solution.rank),
                "condition number": solution.condition,
                "residual": solution.residual,
                **zeros,
            },
            is_exact=solution.residual < EXACT
            and len(patches.pixels) < patches.width
            and may_be_exact(observation, objective),
        )


def _unsolvable(observation: Observation, patches: Patches, positions: Positions) -> str | None:
    if len(patches.pixels) > patches.width:
        return f"{len(patches.pixels)} patches for {patches.width} features per token: fewer equations than unknowns"
    return missing_gradient(observation, patches, positions)


def _solve(tokens: Tensor, weight: Tensor) -> _Solution:
    """Return the least-squares solution X of tokens^T X = weight; tokens (N, d), weight (d, entries), float64."""
    left, singular, right = torch.linalg.svd(tokens.T, full_matrices=False)
    rank = int((singular > _ZERO * singular[0]).sum())
    parts = left.T @ weight
    solution = right[:rank].T @ (parts[:rank] / singular[:rank, None])
    residual = float((weight - left[:, :rank] @ parts[:rank]).norm() / weight.norm().clamp_min(LEAST))
    return _Solution(solution, residual, rank, float(singular[0] / singular[-1]))


def _zeros(embedding: Tensor, residual: float) -> tuple[str, dict[str, float]]:
    """Return a note and diagnostics on the zeros of an exact gradient (tokens, features), which show the mask."""
    if residual > EXACT:
        return "the gradient is not exact, so its zeros do not show the embedding's mask", {}
    share = float((embedding == 0).double().mean())
    count = int((embedding == 0).sum())
    return f"{count} of {embedding.numel()} embedding entries read off as dropped", {"zero share": share}
