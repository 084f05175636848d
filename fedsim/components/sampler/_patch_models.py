"""Interface of models that generate images patch by patch, and the conditions of their patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from fedsim.components.sampler._speculation import LastStep, last_step
from fedsim.core.errors import FedsimError

Place = tuple[int, int]  # row, and index of a patch in generation order


class PatchModel(Protocol):
    """A model that generates images patch by patch, such as `patch-diffusion`.

    Its attribute `order` is "random" if patches may be generated in any order; without it, the order is raster order.
    """

    shape: tuple[int, ...]
    patches: int
    size: int
    levels: int

    def conditions(self, patches: Tensor, labels: Tensor | None = None, order: Tensor | None = None) -> Tensor:
        """Return the conditions (B, k + 1, ...) of the first k patches (B, k, m) and of the next patch.

        Models of random order also get the positions (B, n) of all patches, and fewer than n patches.
        """
        ...

    def reverse(self, x: Tensor, level: int, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of patches (N, m) at the next lower noise level."""
        ...

    def cut(self, images: Tensor) -> Tensor:
        """Split images into patches (B, n, m)."""
        ...

    def join(self, patches: Tensor) -> Tensor:
        """Assemble images from patches."""
        ...


class PatchReader(NamedTuple):
    """A patch model with its inputs besides the patches.

    Attributes:
        model: the patch model.
        labels: class of each row, -1 for none, shape (B,).
        orders: positions of each row's patches in generation order, shape (B, n).
        temperature: factor of the standard deviation of each step.
    """

    model: PatchModel
    labels: Tensor
    orders: Tensor
    temperature: float

    def along(self, patches: Tensor, places: Sequence[Place]) -> Tensor:
        """Return the conditions (N, ...) of places, each given all patches before it, in one pass over (B, n, m)."""
        length = max(number for _, number in places)
        rows, numbers = zip(*places, strict=True)
        return self._conditions(patches[:, :length], self.labels, self.orders)[list(rows), list(numbers)]

    def conditions_of(self, patches: Tensor, places: Sequence[Place], known: Sequence[int]) -> Tensor:
        """Return the conditions (N, ...) of places, each given only the first `known` patches of its row.

        A pass with a row per place, whose patch follows directly after its known patches.
        """
        rows, numbers = (list(place) for place in zip(*places, strict=True))
        all_places, orders = range(len(rows)), self.orders[rows]
        orders[all_places, known], orders[all_places, numbers] = self.orders[rows, numbers], self.orders[rows, known]
        return self._conditions(patches[rows, : max(known)], self.labels[rows], orders)[all_places, known]

    def last(self, conditions: Tensor, noise: Tensor) -> LastStep:
        """Run all denoising steps but the last, given conditions (N, ...) and noise (T, N, m); return the last step."""
        return last_step(
            lambda x, level: self.model.reverse(x, level, conditions), noise, self.model.levels, self.temperature
        )

    def _conditions(self, patches: Tensor, labels: Tensor, orders: Tensor) -> Tensor:
        if order_of(self.model) == "reading":
            return self.model.conditions(patches, labels)
        return self.model.conditions(patches, labels, orders)


def order_of(model: PatchModel) -> str:
    """Return the generation order, `reading` (raster) or `random`."""
    return getattr(model, "order", "reading")


def places_of(model: PatchModel, generator: torch.Generator) -> Tensor:
    """Return the patch positions (n,) in generation order."""
    if order_of(model) == "reading":
        return torch.arange(model.patches)
    return torch.randperm(model.patches, generator=generator)


def patch_model(model: nn.Module) -> PatchModel:
    """Return the model as a `PatchModel`.

    Raises:
        FedsimError: the model lacks an attribute of patch models.
    """
    if all(hasattr(model, name) for name in ("conditions", "reverse", "cut", "join", "patches", "levels")):
        return cast("PatchModel", model)
    raise FedsimError(
        f"the model {type(model).__name__} predicts no noise of patches, so the sampler cannot draft for it. "
        "Use a model trained for task 'next-patch', such as 'patch-diffusion', or sampler 'heun' for a "
        "denoiser."
    )


def check_draft(model: PatchModel, draft: PatchModel) -> None:
    """Check that `draft` can draft for `model`.

    Raises:
        FedsimError: patches, levels, order, shape or classes differ.
    """
    ours, theirs = ((patch_model.patches, patch_model.size, patch_model.levels) for patch_model in (model, draft))
    if ours != theirs:
        raise FedsimError(
            f"the draft has {theirs[0]} patches of {theirs[1]} numbers and {theirs[2]} noise levels, and the model "
            f"{ours[0]} of {ours[1]} and {ours[2]}. Both must have the same: train a draft with these settings."
        )
    if order_of(model) != order_of(draft):
        raise FedsimError(
            f"the draft draws in order '{order_of(draft)}', and the model in order '{order_of(model)}'. Train a draft "
            f"with model.order = '{order_of(model)}'."
        )
    if tuple(model.shape) != tuple(draft.shape):
        raise FedsimError(
            f"the draft draws images of shape {tuple(draft.shape)}, and the model of {tuple(model.shape)}, so "
            "that its patches lie elsewhere. Train a draft with the data of the model."
        )
    known, wanted = (getattr(patch_model, "classes", 0) for patch_model in (draft, model))
    if 0 < known < wanted:
        raise FedsimError(
            f"the draft is conditioned on {known} classes and the model on {wanted}. Train a draft on the "
            "model's data, or a draft without classes."
        )
