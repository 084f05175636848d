"""Adapter of `Subject(views=...)`: a loader of two views per example and a loss that compares their embeddings.

The model's batch holds all views, and the label of each view is the index of its pair.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, cast, final

import torch
from torch import Tensor

from fedsim.audit.adapters import SubjectAdapter, adapter, tensors_are, type_names
from fedsim.audit.copying import copy_model
from fedsim.audit.foreign import reason
from fedsim.audit.pairs import check_inputs
from fedsim.audit.subject import MOST_EXAMPLES, LossOfViews, Subject
from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.types import InputSpec
from fedsim.tasks.core.pairing import pairs_in, partners_in

_PAIR = 2
_LEAST = 4  # pairs: two for the client, since a contrastive loss needs others, and two for tests
_FORMS: dict[LossOfViews, str] = {
    "halves": "as (z1, z2), a half each",
    "stacked": "as (z, partners), the row of each row's partner",
}
_OF_THE_WHOLE = (
    "The audit supports an encoder that maps each view separately, and a loss of the "
    "embeddings of a batch. It does not support a memory bank, a queue or a momentum encoder, "
    "because it does not know their state in the attacked round"
)
_ALONE = (
    "Members of pairs are not measured: the loss of a view depends on the other views of its "
    "batch, so no attack can score a single view."
)


@final
@adapter
class PairedViews(SubjectAdapter):
    """A model, a loss of embeddings, and a loader of two views of each example."""

    input_description: ClassVar[str] = "a Subject with views and a loader that yields two views of each example"

    @classmethod
    def matches(cls, client: Any) -> bool:
        """Return whether a subject states the form of its two-view loss."""
        return isinstance(client, Subject) and client.views is not None

    def subject(self) -> Subject:
        """Return the subject with batches of both views of each pair, in sequence."""
        given: Subject = self.client
        form = given.views
        if form is None or form not in _FORMS:
            raise FedsimError(f"'{self.name}': views is '{form}', expected 'halves' or 'stacked'.")
        if given.loss is None or given.loader is None:
            raise FedsimError(f"'{self.name}' has views, which need a loss of embeddings and a loader.")
        train = self._read(given.loader, f"the loader of '{self.name}'")
        if given.test is None:
            half = max(2, (len(train) + 1) // 2)
            train, test = train[:half], train[half:]
        else:
            test = self._read(given.test, f"the test loader of '{self.name}'")
        if len(train) < _LEAST // 2 or len(test) < _LEAST // 2:
            raise FedsimError(
                f"the loader of '{self.name}' yields {len(train) + len(test)} pairs of views, expected at least "
                f"{_LEAST}, half of them for tests."
            )
        self._noun = "image" if InputSpec(tuple(train.shape[2:]), 0, (), ()).is_image else "row"
        self._sent = sum(p.requires_grad for p in given.model.parameters())
        loss = partial(_loss_of_rows, given.loss, form)
        self._try(given, loss, _FORMS[form], train[:2])
        return replace(
            given, loss=loss, loader=_collate_views(train), test=_collate_views(test), notes=(*given.notes, _ALONE)
        )

    def input_summary(self) -> str:
        """State that a batch holds two views of each example."""
        return (
            f"pairs, 2 views of each {self._noun}, so a batch of 1 holds 2; loss of both embeddings; "
            f"{tensors_are(self._sent)} sent"
        )

    def _read(self, loader: Iterable[Any], description: str) -> Tensor:
        """Return the first pairs of a loader, shape (N, 2, *shape)."""
        pairs = list[Tensor]()
        with seeding.isolate_randomness(0):
            for item in loader:
                pairs.append(_views_in(item, description))
                if _PAIR * sum(map(len, pairs)) >= MOST_EXAMPLES:
                    break
        return torch.cat(pairs)[: MOST_EXAMPLES // _PAIR] if pairs else torch.empty(0, _PAIR)

    def _try(self, given: Subject, loss: Callable[[Tensor, Tensor], Tensor], taken_as: str, pairs: Tensor) -> None:
        """Compute the loss of the same embeddings twice and compare.

        Raises:
            FedsimError: the model does not accept single views, the loss fails, or it differs between the two calls.
        """
        (views, labels), *_ = _collate_views(pairs)
        with torch.no_grad(), seeding.isolate_randomness(0):
            try:
                embeddings = copy_model(given.model, given.logits, self.name)(views)
            except TypeError as error:
                raise FedsimError(
                    f"the model of '{self.name}' fails on views: {reason(error)}. {_OF_THE_WHOLE}."
                ) from error
            trial = copy.deepcopy(loss)
            try:
                first, repeated = (float(trial(embeddings, labels)) for _ in range(2))
            except Exception as error:
                raise FedsimError(
                    f"the loss of '{self.name}' fails on embeddings of shape {tuple(embeddings.shape)}, which "
                    f"views='{given.views}' gives it {taken_as}: {reason(error)}."
                ) from error
        if first != repeated:
            raise FedsimError(
                f"the loss of '{self.name}' is {first:g} on some embeddings, and {repeated:g} on "
                "the same embeddings again: it depends on earlier batches or on chance. "
                f"{_OF_THE_WHOLE}."
            )


def _views_in(item: Any, description: str) -> Tensor:
    """Return the two views of a loader item, shape (B, 2, *shape)."""
    parts = cast("list[Any]", item) if isinstance(item, tuple | list) else []
    content = cast("list[Any]", parts[0]) if parts and isinstance(parts[0], tuple | list) else parts
    if len(content) != _PAIR or not all(isinstance(view, Tensor) for view in content):
        raise FedsimError(
            f"{description} yields {type_names(content) if content else type(item).__name__}, expected two views "
            "of each example, (x1, x2) or ((x1, x2), anything), as tensors."
        )
    first, second = content
    for view in content:
        check_inputs(view, description)
    if first.shape != second.shape:
        raise FedsimError(
            f"{description} yields views of shapes {tuple(first.shape)} and {tuple(second.shape)}, "
            "expected the same shape."
        )
    return torch.stack([first, second], 1).detach().cpu().float()


def _collate_views(pairs: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return a batch of all views, labelled with the index of their pair."""
    return [(pairs.flatten(0, 1), torch.arange(len(pairs)).repeat_interleave(_PAIR).float())]


def _loss_of_rows(
    loss: Callable[[Tensor, Tensor], Tensor], form: LossOfViews, embeddings: Tensor, labels: Tensor
) -> Tensor:
    """Return the user's loss of embeddings; the labels are pair indices."""
    if form == "stacked":
        return loss(embeddings, partners_in(labels))
    first, second = pairs_in(labels).unbind(1)
    return loss(embeddings[first], embeddings[second])
