"""Adapter of a scikit-learn classifier with its data: a torch twin of its weights and loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.audit.adapters import adapter, is_instance_by_name
from fedsim.audit.adapters._estimators import EstimatorAdapter, last_step
from fedsim.audit.subject import Subject
from fedsim.core.errors import FedsimError, did_you_mean
from fedsim.core.types import Loss


@final
@adapter
class SklearnClassifier(EstimatorAdapter):
    """LogisticRegression, SGDClassifier, Perceptron or MLPClassifier, alone or at the end of a pipeline."""

    input_description: ClassVar[str] = "(estimator, X, y) of scikit-learn"

    @classmethod
    def matches(cls, client: Any) -> bool:
        """Return whether the first part is an estimator that is not a regressor."""
        last = last_step(client)
        return is_instance_by_name(last, "BaseEstimator", "sklearn") and not is_instance_by_name(
            last, "RegressorMixin", "sklearn"
        )

    def subject(self) -> Subject:
        """Return the torch twin, with rows as the pipeline passes them to the classifier."""
        estimator, rows, labels = self.parts()
        names = np.unique(labels)
        self._classes = getattr(estimator, "classes_", names)
        self._check_labels(labels, names)
        kind = type(estimator).__name__
        self.loss_name, loss = self._loss(kind)
        build = {"MLPClassifier": self._perceptron}.get(kind, self._linear)
        return self.twin(rows, torch.tensor(np.searchsorted(self._classes, labels)), build, loss)

    def _check_labels(self, labels: Any, names: Any) -> None:
        if np.issubdtype(names.dtype, np.floating) and not bool((names == names.astype(int)).all()):
            raise FedsimError(f"'{self.name}' gives y with numbers that are no classes, expected a class for each row.")
        if len(names) < 2:  # noqa: PLR2004 - classes
            raise FedsimError(f"'{self.name}' returns y of a single class, expected at least two.")
        strange = sorted(set(names.tolist()) - set(self._classes.tolist()))
        if strange:
            raise FedsimError(f"'{self.name}' gives y with {strange[0]!r}, which is no class that it was fitted on.")

    def _loss(self, kind: str) -> tuple[str, Loss | None]:
        """Return the name of the loss, and its function of scores and labels; None is cross-entropy."""
        if kind in ("LogisticRegression", "LogisticRegressionCV", "MLPClassifier"):
            return "cross-entropy", None
        if kind == "SGDClassifier":
            name = self.estimator.loss
            if name not in _MARGINS:
                raise FedsimError(
                    f"the SGDClassifier '{self.name}' has loss '{name}', expected any of "
                    f"{', '.join(_MARGINS)}.{did_you_mean(name, _MARGINS)}"
                )
            return f"{name}, of each class against the rest", partial(_one_vs_rest_loss, _MARGINS[name])
        if kind == "Perceptron":
            return "perceptron, of each class against the rest", partial(_one_vs_rest_loss, _MARGINS["perceptron"])
        known = ("LogisticRegression", "SGDClassifier", "Perceptron", "MLPClassifier")
        raise FedsimError(
            f"'{self.name}' is a {kind}, and fedsim does not know its gradient, expected any of {', '.join(known)}."
        )

    def _linear(self, columns: int) -> nn.Module:
        """Return a dense layer of scores; two classes have a single row, the score of the second class."""
        outputs = 1 if len(self._classes) == 2 else len(self._classes)  # noqa: PLR2004 - classes
        layer = self.dense(columns, outputs)
        return nn.Sequential(layer, _BesideZero() if outputs == 1 else nn.Identity())

    def _perceptron(self, _columns: int) -> nn.Module:
        """Return the layers of a fitted MLPClassifier."""
        layers = self.layers()
        if self.estimator.out_activation_ == "logistic" and self.estimator.n_outputs_ > 1:
            raise FedsimError(f"the MLPClassifier '{self.name}' has several labels per row, expected a single class.")
        return nn.Sequential(*layers, _BesideZero() if self.estimator.n_outputs_ == 1 else nn.Identity())


class _BesideZero(nn.Module):
    """Prepends a zero score to the single score of two classes: their softmax equals its sigmoid."""

    def forward(self, score: Tensor) -> Tensor:
        """Return scores, shape (B, 2)."""
        return torch.cat([torch.zeros_like(score), score], 1)


_MARGINS: dict[str, Callable[[Tensor], Tensor]] = {
    "hinge": lambda margins: (1 - margins).clamp_min(0),
    "log_loss": lambda margins: F.softplus(-margins),
    "modified_huber": lambda margins: torch.where(margins >= -1, (1 - margins).clamp_min(0).square(), -4 * margins),
    "perceptron": lambda margins: (-margins).clamp_min(0),
    "squared_hinge": lambda margins: (1 - margins).clamp_min(0).square(),
}
"""Losses of SGDClassifier as functions of the margin: the class score times 1 for its rows and -1 for other rows."""


def _one_vs_rest_loss(loss: Callable[[Tensor], Tensor], scores: Tensor, labels: Tensor) -> Tensor:
    """Return the one-versus-rest loss, summed over classes and averaged over rows; two classes count once."""
    signs = 2.0 * F.one_hot(labels, scores.shape[1]) - 1
    if scores.shape[1] == 2:  # noqa: PLR2004 - classes
        scores, signs = scores[:, 1:] - scores[:, :1], signs[:, 1:]
    return loss(signs * scores).sum(1).mean()
