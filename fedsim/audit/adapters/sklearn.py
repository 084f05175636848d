"""A classifier of scikit-learn with its data: a torch twin of its weights and loss."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.audit.adapters import SubjectAdapter, adapter, is_a, kinds_of, parts_of, tensors_are
from fedsim.audit.subject import Subject
from fedsim.core.errors import FedsimError, nearest
from fedsim.core.types import Loss

_PARTS = 3  # estimator, X, y
_RETURN = "Return (estimator, X, y), with the client's rows and labels."
_BATCH = 32  # rows that the loader yields at once
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "logistic": nn.Sigmoid,
    "identity": nn.Identity,
}


@final
@adapter
class SklearnClassifier(SubjectAdapter):
    """LogisticRegression, SGDClassifier, Perceptron or MLPClassifier, alone or at the end of a pipeline."""

    takes: ClassVar[str] = "(estimator, X, y) of scikit-learn"

    @classmethod
    def recognises(cls, thing: Any) -> bool:
        """Say whether the first part is an estimator."""
        return is_a(next(iter(parts_of(thing)), None), "BaseEstimator", "sklearn")

    def subject(self) -> Subject:
        """Return the twin, with rows as the estimator's last step gets them."""
        estimator, rows, labels = self._parts()
        self._estimator, rows = self._last_of(estimator, rows)
        names = np.unique(labels)
        self._classes = getattr(self._estimator, "classes_", names)
        self._check_labels(labels, names)
        kind = type(self._estimator).__name__
        build = {"MLPClassifier": self._perceptron}.get(kind, self._linear)
        self._loss_name, loss = self._loss(kind)
        inputs = torch.tensor(np.asarray(rows, dtype=np.float32))
        targets = torch.tensor(np.searchsorted(self._classes, labels))
        self._model = build(inputs.shape[1])
        pairs = list(zip(inputs.split(_BATCH), targets.split(_BATCH), strict=True))
        penalty = "A penalty on the weights is left out: the server knows the weights, and can subtract it."
        return Subject(self._model, loss, pairs, notes=(penalty,))

    def understood(self) -> str:
        """Say which twin is attacked."""
        sent = sum(1 for _ in self._model.parameters())
        fitted = "as it was fitted" if hasattr(self._estimator, "classes_") else "before its first fit, all 0"
        return (
            f"{type(self._estimator).__name__} of scikit-learn {fitted}, {tensors_are(sent)} sent; loss: "
            f"{self._loss_name}, one gradient step of a torch twin"
        )

    def _parts(self) -> tuple[Any, Any, Any]:
        parts = parts_of(self.thing)
        if len(parts) != _PARTS:
            raise FedsimError(f"'{self.name}' gives {kinds_of(parts)}, expected an estimator with its data. {_RETURN}")
        estimator, rows, labels = parts
        rows, labels = (part.toarray() if hasattr(part, "toarray") else np.asarray(part) for part in (rows, labels))
        if rows.ndim != 2 or labels.shape != rows.shape[:1]:  # noqa: PLR2004 - rows and columns
            raise FedsimError(
                f"'{self.name}' gives X of shape {rows.shape} and y of shape {labels.shape}, expected (rows, columns) "
                "and one label for each row."
            )
        return estimator, rows if hasattr(estimator, "steps") else rows.astype(float), labels

    def _last_of(self, estimator: Any, rows: Any) -> tuple[Any, Any]:
        """Return the classifier of a pipeline, and the rows that it gets there."""
        if not is_a(estimator, "Pipeline", "sklearn"):
            return estimator, rows
        not_fitted = importlib.import_module("sklearn.exceptions").NotFittedError
        try:
            rows = estimator[:-1].transform(rows)
        except not_fitted as error:
            raise FedsimError(f"the pipeline '{self.name}' is not fitted. Call its fit before the audit.") from error
        return estimator[-1], rows.toarray() if hasattr(rows, "toarray") else rows

    def _check_labels(self, labels: Any, names: Any) -> None:
        if np.issubdtype(names.dtype, np.floating) and not bool((names == names.astype(int)).all()):
            raise FedsimError(f"'{self.name}' gives y with numbers that are no classes, expected a class for each row.")
        if len(names) < 2:  # noqa: PLR2004 - classes
            raise FedsimError(f"'{self.name}' gives y of one class alone, expected two or more.")
        strange = sorted(set(names.tolist()) - set(self._classes.tolist()))
        if strange:
            raise FedsimError(f"'{self.name}' gives y with {strange[0]!r}, which is no class that it was fitted on.")

    def _loss(self, kind: str) -> tuple[str, Loss | None]:
        """Return the loss by name, and as a function of scores and labels; None is cross-entropy."""
        if kind in ("LogisticRegression", "LogisticRegressionCV", "MLPClassifier"):
            return "cross-entropy", None
        if kind == "SGDClassifier":
            name = self._estimator.loss
            if name not in _MARGINS:
                raise FedsimError(
                    f"the SGDClassifier '{self.name}' has loss '{name}', expected one of {', '.join(_MARGINS)}."
                    f"{nearest(name, _MARGINS)}"
                )
            return f"{name}, of each class against the rest", partial(_against_the_rest, _MARGINS[name])
        if kind == "Perceptron":
            return "perceptron, of each class against the rest", partial(_against_the_rest, _MARGINS["perceptron"])
        known = ("LogisticRegression", "SGDClassifier", "Perceptron", "MLPClassifier")
        raise FedsimError(
            f"'{self.name}' is a {kind}, whose training sends no gradient that is known here, expected one of "
            f"{', '.join(known)}."
        )

    def _linear(self, columns: int) -> nn.Module:
        """Return scores of one dense layer; of two classes it has one row, the score of the second."""
        outputs = 1 if len(self._classes) == 2 else len(self._classes)  # noqa: PLR2004 - classes
        layer = nn.Linear(columns, outputs, bias=bool(self._estimator.fit_intercept))
        with torch.no_grad():
            for p, name in ((layer.weight, "coef_"), (layer.bias, "intercept_")):
                if p is not None:
                    values = getattr(self._estimator, name, np.zeros(p.shape))
                    p.copy_(torch.tensor(np.asarray(values, dtype=np.float32)).view_as(p))
        return nn.Sequential(layer, _BesideZero()) if outputs == 1 else layer

    def _perceptron(self, columns: int) -> nn.Module:
        """Return the layers of a fitted MLPClassifier."""
        if not hasattr(self._estimator, "coefs_"):
            raise FedsimError(
                f"the MLPClassifier '{self.name}' has no weights yet. Call fit or partial_fit(X, y, classes=...) once."
            )
        if self._estimator.out_activation_ == "logistic" and self._estimator.n_outputs_ > 1:
            raise FedsimError(f"the MLPClassifier '{self.name}' gives several labels to a row, expected one class.")
        layers: list[nn.Module] = []
        for weights, intercepts in zip(self._estimator.coefs_, self._estimator.intercepts_, strict=True):
            layer = nn.Linear(*weights.shape)
            with torch.no_grad():
                layer.weight.copy_(torch.tensor(np.asarray(weights.T, dtype=np.float32)))
                layer.bias.copy_(torch.tensor(np.asarray(intercepts, dtype=np.float32)))
            layers += [layer, _ACTIVATIONS[self._estimator.activation]()]
        layers[-1] = _BesideZero() if self._estimator.n_outputs_ == 1 else nn.Identity()
        return nn.Sequential(*layers)


class _BesideZero(nn.Module):
    """Turns the one score of two classes into two, of which the first is 0: their softmax is its sigmoid."""

    def forward(self, score: Tensor) -> Tensor:
        """Return scores, shape (B, 2)."""
        return torch.cat([torch.zeros_like(score), score], 1)


def _hinge(margins: Tensor) -> Tensor:
    return (1 - margins).clamp_min(0)


def _modified_huber(margins: Tensor) -> Tensor:
    return torch.where(margins >= -1, (1 - margins).clamp_min(0).square(), -4 * margins)


_MARGINS: dict[str, Callable[[Tensor], Tensor]] = {
    "hinge": _hinge,
    "log_loss": lambda margins: F.softplus(-margins),
    "modified_huber": _modified_huber,
    "perceptron": lambda margins: (-margins).clamp_min(0),
    "squared_hinge": lambda margins: _hinge(margins).square(),
}
"""Losses of SGDClassifier, of the score of a class times 1 for its rows and -1 for others."""


def _against_the_rest(loss: Callable[[Tensor], Tensor], scores: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over rows of the loss of each class's score against the rest, summed; of two classes once."""
    signs = 2.0 * F.one_hot(labels, scores.shape[1]) - 1
    if scores.shape[1] == 2:  # noqa: PLR2004 - classes
        scores, signs = scores[:, 1:] - scores[:, :1], signs[:, 1:]
    return loss(signs * scores).sum(1).mean()
