"""A regressor of scikit-learn is audited by a twin that does what it does: same numbers, same step."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso, LinearRegression, Ridge, SGDRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from fedsim.audit.loading import load_subject
from fedsim.audit.subject import check_subject
from fedsim.core.errors import FedsimError
from tests.audit.adapters.recovering import attacked

RATE = 0.01
X = np.random.default_rng(0).normal(size=(40, 6))
Y = X @ np.arange(6) + np.random.default_rng(1).normal(size=40)
TWO = np.stack([Y, -Y], 1)


def fitted(estimator: Any, y: np.ndarray = Y) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that so few iterations do not converge
        return estimator.fit(X, y)


@pytest.mark.parametrize(
    ("estimator", "y"),
    [
        (LinearRegression(), Y),
        (LinearRegression(fit_intercept=False), Y),
        (Ridge(), TWO),
        (Lasso(), Y),
        (MLPRegressor(hidden_layer_sizes=(5, 4), activation="tanh", max_iter=5), Y),
        (make_pipeline(StandardScaler(), SGDRegressor(loss="huber")), Y),
    ],
)
def test_the_twin_foretells_what_the_estimator_does(estimator: Any, y: np.ndarray) -> None:
    expected = fitted(estimator, y).predict(X).reshape(40, -1)
    subject = load_subject((estimator, X, y), "train:model")
    rows = torch.cat([one for one, _ in subject.loader])  # type: ignore[union-attr]
    np.testing.assert_allclose(subject.model(rows).detach().numpy(), expected, atol=1e-4)  # float32 against float64
    assert check_subject(subject, "train:model").task.name == "regression"


@pytest.mark.parametrize("y", [Y, TWO])
def test_one_step_of_an_mlp_is_the_gradient_of_the_twin(y: np.ndarray) -> None:
    estimator = MLPRegressor(
        hidden_layer_sizes=(5,), solver="sgd", alpha=0.0, momentum=0.0, learning_rate_init=RATE, batch_size=40
    )
    estimator.partial_fit(X, y)
    subject = load_subject((estimator, X, y), "train:model")
    before = [weights.copy() for weights in (*estimator.coefs_, *estimator.intercepts_)]
    estimator.partial_fit(X, y)
    moved = [
        (one - other) / RATE for one, other in zip(before, (*estimator.coefs_, *estimator.intercepts_), strict=True)
    ]
    rows, numbers = (torch.cat(part) for part in zip(*subject.loader, strict=True))  # type: ignore[arg-type]
    subject.loss(subject.model(rows), numbers).backward()
    layers = [layer for layer in subject.model.modules() if isinstance(layer, torch.nn.Linear)]
    slopes = [layer.weight.grad.T for layer in layers] + [layer.bias.grad for layer in layers]  # type: ignore[union-attr]
    for slope, change in zip(slopes, moved, strict=True):
        assert np.allclose(slope.numpy(), change, atol=1e-4)  # float32, and a difference over a small step


@pytest.mark.parametrize("loss", ["squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive"])
def test_one_step_of_sgd_on_one_row_is_the_gradient_of_the_twin(loss: str) -> None:
    estimator = SGDRegressor(loss=loss, alpha=1e-12, learning_rate="constant", eta0=RATE, shuffle=False, epsilon=0.3)
    estimator.partial_fit(X, Y)
    subject = load_subject((estimator, X, Y), "train:model")
    before = estimator.coef_.copy()
    estimator.partial_fit(X[:1], Y[:1])
    rows, numbers = next(iter(subject.loader))  # type: ignore[arg-type]
    subject.loss(subject.model(rows[:1]), numbers[:1]).backward()
    slope = next(subject.model.parameters()).grad
    assert np.allclose(slope.numpy()[0], (before - estimator.coef_) / RATE, atol=1e-4)  # as above


def test_a_row_comes_back_with_its_number() -> None:
    subject = load_subject((LinearRegression(), X, Y), "train:model")
    assert subject.notes[0] == (
        "Understood: LinearRegression of scikit-learn before its first fit, all 0, 2 tensors are sent; "
        "loss: half the squared error, a single gradient step of an equal torch model."
    )
    finding = attacked(subject)
    assert finding.value.value == 1.0
    assert [victim.scores[0].values["target_read"] for victim in finding.victims] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (LinearRegression(), r"gives LinearRegression, expected an estimator with its data. Return \(estimator, X"),
        ((MLPRegressor(), X, Y), r"has no weights yet. Call fit or partial_fit\(X, y\) once."),
        ((Ridge(), X, Y.astype(str) + "a"), "gives y with values that are no numbers: ValueError"),
        ((SVR(), X, Y), "is a SVR, and fedsim does not know its gradient, expected any of LinearRegr"),
        ((fitted(MLPRegressor(loss="poisson", max_iter=2), Y**2), X, Y), "has loss 'poisson', expected squared_error"),
        ((SGDRegressor(loss="hubert"), X, Y), "has loss 'hubert', expected squared_error or .*Did you mean 'huber'"),
    ],
)
def test_a_mistake_is_one_sentence(thing: Any, message: str) -> None:
    with pytest.raises(FedsimError, match=message) as raised:
        load_subject(thing, "train:model")
    assert "\n" not in str(raised.value)
