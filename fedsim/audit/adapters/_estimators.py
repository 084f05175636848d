"""Common parts of the scikit-learn adapters: validation of (estimator, X, y), pipelines, layers of the torch twin."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.audit.adapters import SubjectAdapter, as_sequence, is_instance_by_name, tensors_are, type_names
from fedsim.audit.foreign import reason
from fedsim.audit.subject import Subject
from fedsim.core.errors import FedsimError
from fedsim.core.types import Loss

PENALTY = "A penalty on the weights is left out: the server knows the weights, and can subtract it."
_PARTS = 3  # estimator, X, y
_RETURN = "Return (estimator, X, y), with the client's rows and labels."
_BATCH = 32  # batch size of the loader
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "logistic": nn.Sigmoid,
    "identity": nn.Identity,
}


class EstimatorAdapter(SubjectAdapter):
    """Base class of adapters for an estimator with its rows and labels.

    Attributes:
        label_dimensions: largest number of dimensions of y.
        estimator: last step of the given estimator.
        model: torch twin of the estimator.
        loss_name: display name of the loss.
    """

    label_dimensions: ClassVar[int] = 1
    estimator: Any
    model: nn.Module
    loss_name: str

    def input_summary(self) -> str:
        """Describe the attacked torch twin."""
        sent = sum(1 for _ in self.model.parameters())
        is_fitted = hasattr(self.estimator, "coef_") or hasattr(self.estimator, "coefs_")
        fitted = "as it was fitted" if is_fitted else "before its first fit, all 0"
        return (
            f"{type(self.estimator).__name__} of scikit-learn {fitted}, {tensors_are(sent)} "
            f"sent; loss: {self.loss_name}, a single gradient step of an equal torch model"
        )

    def twin(self, rows: Any, labels: Tensor, build: Callable[[int], nn.Module], loss: Loss | None) -> Subject:
        """Return the subject of a torch twin that `build` returns for the number of columns."""
        inputs = torch.tensor(np.asarray(rows, dtype=np.float32))
        self.model = build(inputs.shape[1])
        pairs = list(zip(inputs.split(_BATCH), labels.split(_BATCH), strict=True))
        return Subject(self.model, loss, pairs, notes=(PENALTY,))

    def dense(self, columns: int, outputs: int) -> nn.Linear:
        """Return a linear estimator's weights as a layer; zeros before its first fit."""
        layer = nn.Linear(columns, outputs, bias=bool(self.estimator.fit_intercept))
        with torch.no_grad():
            for p, name in ((layer.weight, "coef_"), (layer.bias, "intercept_")):
                if p is not None:
                    values = getattr(self.estimator, name, np.zeros(p.shape))
                    p.copy_(torch.tensor(np.asarray(values, dtype=np.float32)).view_as(p))
        return layer

    def layers(self) -> list[nn.Module]:
        """Return the layers of a fitted perceptron, each followed by its activation except the last.

        Raises:
            FedsimError: the estimator has no weights yet.
        """
        if not hasattr(self.estimator, "coefs_"):
            call = "partial_fit(X, y, classes=...)" if hasattr(self.estimator, "predict_proba") else "partial_fit(X, y)"
            raise FedsimError(
                f"the {type(self.estimator).__name__} '{self.name}' has no weights yet. Call fit or {call} once."
            )
        layers: list[nn.Module] = []
        for weights, intercepts in zip(self.estimator.coefs_, self.estimator.intercepts_, strict=True):
            layer = nn.Linear(*weights.shape)
            with torch.no_grad():
                layer.weight.copy_(torch.tensor(np.asarray(weights.T, dtype=np.float32)))
                layer.bias.copy_(torch.tensor(np.asarray(intercepts, dtype=np.float32)))
            layers += [layer, _ACTIVATIONS[self.estimator.activation]()]
        return layers[:-1]

    def parts(self) -> tuple[Any, Any, Any]:
        """Return the estimator, the rows after the pipeline's earlier steps, and the labels; sets `estimator`.

        Raises:
            FedsimError: a part is missing or does not fit, or the pipeline is not fitted.
        """
        parts = as_sequence(self.client)
        if len(parts) != _PARTS:
            raise FedsimError(
                f"'{self.name}' gives {type_names(parts)}, expected an estimator with its data. {_RETURN}"
            )
        estimator, rows, labels = parts
        rows, labels = (part.toarray() if hasattr(part, "toarray") else np.asarray(part) for part in (rows, labels))
        if rows.ndim != 2 or labels.shape[:1] != rows.shape[:1] or labels.ndim > self.label_dimensions:  # noqa: PLR2004 - rows and columns
            raise FedsimError(
                f"'{self.name}' gives X of shape {rows.shape} and y of shape {labels.shape}, "
                "expected (rows, columns) and a label for each row."
            )
        if not len(rows):
            raise FedsimError(f"'{self.name}' gives X without rows. {_RETURN}")
        self.estimator, rows = self._last_of(estimator, rows)
        rows = self.numbers(rows, "X")
        fitted = getattr(self.estimator, "n_features_in_", rows.shape[1])
        if rows.shape[1] != fitted:
            raise FedsimError(
                f"'{self.name}' gives X of {rows.shape[1]} columns, expected the {fitted} that "
                f"{type(self.estimator).__name__} was fitted on."
            )
        return self.estimator, rows, labels

    def numbers(self, values: Any, method: str) -> Any:
        """Return values as a float array.

        Raises:
            FedsimError: a value is not a number.
        """
        try:
            return np.asarray(values, dtype=float)
        except (TypeError, ValueError) as error:
            raise FedsimError(
                f"'{self.name}' gives {method} with values that are no numbers: {reason(error)}. A fitted pipeline may "
                "turn words into some."
            ) from error

    def _last_of(self, estimator: Any, rows: Any) -> tuple[Any, Any]:
        """Return the last estimator of a pipeline, and the rows transformed by its earlier steps."""
        if not is_instance_by_name(estimator, "Pipeline", "sklearn"):
            return estimator, rows
        not_fitted = importlib.import_module("sklearn.exceptions").NotFittedError
        try:
            rows = estimator[:-1].transform(rows)
        except not_fitted as error:
            raise FedsimError(f"the pipeline '{self.name}' is not fitted. Call its fit before the audit.") from error
        except Exception as error:
            raise FedsimError(f"the pipeline '{self.name}' does not take these rows: {reason(error)}.") from error
        return estimator[-1], rows.toarray() if hasattr(rows, "toarray") else rows


def last_step(pipeline: Any) -> Any:
    """Return the first given object, or the last step if it is a pipeline."""
    first: Any = next(iter(as_sequence(pipeline)), None)
    return first.steps[-1][1] if is_instance_by_name(first, "Pipeline", "sklearn") else first
