"""Adapter of a scikit-learn regressor with its data: a torch twin of its weights and loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.audit.adapters import adapter, is_instance_by_name
from fedsim.audit.adapters._estimators import EstimatorAdapter, last_step
from fedsim.audit.subject import Subject
from fedsim.core.errors import FedsimError, did_you_mean
from fedsim.core.types import Loss

_SQUARED = ("LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV", "MLPRegressor")
_KNOWN = (*_SQUARED, "SGDRegressor")


@final
@adapter
class SklearnRegressor(EstimatorAdapter):
    """A linear regressor, SGDRegressor or MLPRegressor, alone or at the end of a pipeline."""

    input_description: ClassVar[str] = "(regressor, X, y) of scikit-learn"
    label_dimensions: ClassVar[int] = 2

    @classmethod
    def matches(cls, client: Any) -> bool:
        """Return whether the first part is a regressor."""
        return is_instance_by_name(last_step(client), "RegressorMixin", "sklearn")

    def subject(self) -> Subject:
        """Return the torch twin, with rows as the pipeline passes them to the regressor."""
        estimator, rows, labels = self.parts()
        numbers = torch.tensor(self.numbers(labels, "y"), dtype=torch.float32).reshape(len(labels), -1)
        kind = type(estimator).__name__
        self.loss_name, loss = self._loss(kind)
        if kind == "MLPRegressor":
            return self.twin(rows, numbers, lambda _columns: nn.Sequential(*self.layers()), loss)
        return self.twin(rows, numbers, lambda columns: nn.Sequential(self.dense(columns, numbers.shape[1])), loss)

    def _loss(self, kind: str) -> tuple[str, Loss]:
        """Return the name of the loss, and its function of outputs and numbers."""
        name = getattr(self.estimator, "loss", "squared_error") if kind in _KNOWN else ""
        if kind in _SQUARED and name == "squared_error":
            return "half the squared error", _half_squared
        if kind == "SGDRegressor" and name in _ERRORS:
            return name.replace("_", " "), partial(_ERRORS[name], float(self.estimator.epsilon))
        if name:
            known = tuple(_ERRORS) if kind == "SGDRegressor" else ("squared_error",)
            raise FedsimError(
                f"the {kind} '{self.name}' has loss '{name}', expected {' or '.join(known)}.{did_you_mean(name, known)}"
            )
        raise FedsimError(
            f"'{self.name}' is a {kind}, and fedsim does not know its gradient, expected any of {', '.join(_KNOWN)}."
        )


def _half_squared(outputs: Tensor, numbers: Tensor) -> Tensor:
    """Return half the squared error, summed over outputs and averaged over rows: scikit-learn follows its gradient."""
    return (outputs - numbers).square().sum(1).mean() / 2


_ERRORS: dict[str, Callable[[float, Tensor, Tensor], Tensor]] = {
    "squared_error": lambda _width, outputs, numbers: _half_squared(outputs, numbers),
    "huber": lambda width, outputs, numbers: F.huber_loss(outputs, numbers, delta=width),
    "epsilon_insensitive": lambda width, outputs, numbers: ((outputs - numbers).abs() - width).clamp_min(0).mean(),
    "squared_epsilon_insensitive": lambda width, outputs, numbers: (
        ((outputs - numbers).abs() - width).clamp_min(0).square().mean()
    ),
}
"""Losses of SGDRegressor, with its epsilon."""
