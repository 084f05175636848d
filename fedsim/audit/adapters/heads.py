"""Adapter of a model with several heads: outputs and labels are mappings with equal keys, or tuples of equal size."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, cast, final

import torch
from torch import Tensor

from fedsim.audit.adapters import SubjectAdapter, adapter, as_sequence, model_of, tensors_are, with_model
from fedsim.audit.pairs import LABEL_KEYS
from fedsim.audit.subject import MOST_EXAMPLES, Subject
from fedsim.core.errors import FedsimError
from fedsim.core.nets.losses import are_classes
from fedsim.core.types import LabelHead, slice_heads

_TUPLE = 3  # model, loss, loader
_PAIR = 2  # examples, labels
_LIKE = "Give both the same names, or tuples of the same length; Subject(logits=...) may split the model's output."


@dataclass(frozen=True)
class _Form:
    """Structure of several tensors in the user's code: mapping or tuple, with the shape of an example per part."""

    is_mapping: bool
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, written: Any) -> _Form:
        return cls(
            isinstance(written, Mapping), {name: tuple(value.shape[1:]) for name, value in _name_parts(written).items()}
        )

    def restore_structure(self, parts: Mapping[str, Tensor]) -> Any:
        """Return rows (B, numbers) by name in the user's structure."""
        shaped = {name: parts[name].view(len(parts[name]), *shape) for name, shape in self.shapes.items()}
        return shaped if self.is_mapping else tuple(shaped.values())


@final
@adapter
class HeadedClient(SubjectAdapter):
    """A model, a loss of all heads, and a loader of labels with several parts."""

    input_description: ClassVar[str] = "(model, loss, loader) with several outputs and as many labels"

    @classmethod
    def matches(cls, client: Any) -> bool:
        """Return whether the loader's first labels have several parts; iterators are not read."""
        if model_of(client) is None or (isinstance(client, Subject) and client.views is not None):
            return False
        parts = as_sequence(client)
        loader: Any = client.loader if isinstance(client, Subject) else parts[-1] if len(parts) == _TUPLE else None
        if not isinstance(loader, Iterable) or isinstance(loader, Iterator):
            return False
        return isinstance(_labels_in(next(iter(cast("Iterable[Any]", loader)), None)), Mapping | tuple | list)

    def subject(self) -> Subject:
        """Return the subject with all outputs concatenated in a row, and all labels in another."""
        given = with_model(self.client, self.name)
        if given.loss is None:
            raise FedsimError(f"'{self.name}' has several heads and no loss. Return a loss of outputs and labels.")
        loaders = [_first(loader) for loader in (given.loader, given.test) if loader is not None]
        self._sent = sum(p.requires_grad for p in given.model.parameters())
        written = self._outputs(given, loaders[0][0])
        labels = [self._labels(item) for loader in loaders for item in loader]
        outputs = _Form.of(written)
        if set(outputs.shapes) != set(labels[0]):
            raise FedsimError(
                f"the model of '{self.name}' returns {', '.join(outputs.shapes)}, and labels are "
                f"{', '.join(labels[0])}. {_LIKE}"
            )
        self._heads = tuple(
            _head(name, torch.cat([label[name] for label in labels]), _name_parts(written)[name]) for name in labels[0]
        )
        as_labels = _Form.of(_labels_in(loaders[0][0]))
        packed = [[_concat_labels(item, self._heads) for item in loader] for loader in loaders]
        return replace(
            given,
            loss=partial(_loss_of_rows, given.loss, self._heads, outputs, as_labels),
            loader=packed[0],
            test=packed[1] if len(packed) > 1 else None,
            logits=partial(_row_of_outputs, given.logits, self._heads),
            heads=self._heads,
        )

    def input_summary(self) -> str:
        """Describe the heads."""
        heads = ", ".join(f"'{head.name}' ({_format_head(head)})" for head in self._heads)
        return f"a model with {len(self._heads)} heads, {heads}; {tensors_are(self._sent)} sent"

    def _outputs(self, given: Subject, item: Any) -> Any:
        """Return the model's outputs on a batch."""
        inputs = _inputs_in(item)
        with torch.no_grad():
            output = copy.deepcopy(given.model).cpu()(inputs.cpu().float())
        output = output if given.logits is None else given.logits(output)
        if isinstance(output, Tensor):
            shape = tuple(output.shape)
            raise FedsimError(
                f"the model of '{self.name}' returns a single tensor {shape}, and labels have parts. {_LIKE}"
            )
        return output

    def _labels(self, item: Any) -> dict[str, Tensor]:
        named, examples = _name_parts(_labels_in(item)), len(_inputs_in(item))
        for name, part in named.items():
            if not isinstance(part, Tensor) or not part.ndim or len(part) != examples:
                shape = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
                raise FedsimError(
                    f"the labels '{name}' of '{self.name}' are {shape} for {examples} examples, "
                    "expected a tensor with a row for each example. Convert boxes of varying "
                    "number to a grid of cell values (B, K, H, W)."
                )
        return named


def _first(loader: Iterable[Any]) -> list[Any]:
    """Return the items of a loader, until they hold as many examples as an audit reads."""
    items, examples = list[Any](), 0
    for item in loader:
        items.append(item)
        examples += len(_inputs_in(item))
        if examples >= MOST_EXAMPLES:
            break
    return items


def _labels_key(item: Mapping[str, Any]) -> str:
    return next((key for key in LABEL_KEYS if key in item), "")


def _labels_in(item: Any) -> Any:
    """Return the labels of a loader item; None if it has none."""
    if isinstance(item, Mapping):
        return cast("Mapping[str, Any]", item).get(_labels_key(item))
    return item[1] if isinstance(item, tuple | list) and len(cast("list[Any]", item)) == _PAIR else None


def _inputs_in(item: Any) -> Tensor:
    """Return the examples of a loader item: its first tensor."""
    values = cast("Mapping[str, Any]", item).values() if isinstance(item, Mapping) else cast("list[Any]", item)
    return next(value for value in values if isinstance(value, Tensor))


def _name_parts(parts: Any) -> dict[str, Any]:
    """Return parts by name; parts of a tuple are numbered from 1."""
    if isinstance(parts, Mapping):
        return dict(cast("Mapping[str, Any]", parts))
    return {str(number): part for number, part in enumerate(cast("list[Any]", parts), 1)}


def _head(name: str, labels: Tensor, outputs: Tensor) -> LabelHead:
    """Return a head's kind and shape, inferred from all its labels and some outputs."""
    width, shape = outputs[0].numel(), tuple(labels.shape[1:])
    if are_classes(labels) and width > 1:
        return LabelHead(name, "class", (), width)
    if not labels.is_floating_point() and outputs.ndim == labels.ndim + 1:
        return LabelHead(name, "mask", shape, width)
    return LabelHead(name, "set" if bool(((labels == 0) | (labels == 1)).all()) else "numbers", shape, width)


def _format_head(head: LabelHead) -> str:
    if head.kind in ("class", "mask"):
        return f"{head.classes} classes{' of each place' if head.shape else ''}"
    kind = "labels of 0 and 1" if head.kind == "set" else "numbers"
    return f"{head.labels} {kind if head.labels > 1 else kind.replace('s', '', 1)}"


def _concat_labels(item: Any, heads: tuple[LabelHead, ...]) -> Any:
    """Return a loader item with the labels of all heads concatenated in a row."""
    labels = _name_parts(_labels_in(item))
    row = torch.cat([labels[head.name].reshape(-1, head.labels).float() for head in heads], 1)
    if isinstance(item, Mapping):
        return {**cast("Mapping[str, Any]", item), _labels_key(item): row}
    return item[0], row


def _row_of_outputs(logits: Callable[[Any], Any] | None, heads: tuple[LabelHead, ...], output: Any) -> Tensor:
    """Return the outputs of all heads in a row, shape (B, outputs)."""
    named = _name_parts(output if logits is None else logits(output))
    return torch.cat([named[head.name].reshape(-1, head.outputs) for head in heads], 1)


def _loss_of_rows(
    loss: Callable[[Any, Any], Tensor],
    heads: tuple[LabelHead, ...],
    outputs: _Form,
    labels: _Form,
    scores: Tensor,
    targets: Tensor,
) -> Tensor:
    """Return the user's loss of concatenated outputs and labels."""
    said, true = dict[str, Tensor](), dict[str, Tensor]()
    for head, place, position in slice_heads(heads):
        said[head.name] = scores[:, position]
        true[head.name] = targets[:, place].long() if head.kind in ("class", "mask") else targets[:, place].to(scores)
    return loss(outputs.restore_structure(said), labels.restore_structure(true))
