"""A classifier of scikit-learn is audited by a twin that does what it does: same scores, same step."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Perceptron, SGDClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from fedsim.audit.loading import load_subject
from fedsim.audit.subject import Subject, check_subject
from fedsim.core.errors import FedsimError
from tests.audit.adapters.recovering import attacked, share

RATE = 0.01


def rows(classes: int = 3, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    source = np.random.default_rng(0)
    return source.normal(size=(count, 6)), np.arange(count) % classes


def fitted(estimator: Any, classes: int = 3) -> tuple[Any, np.ndarray, np.ndarray]:
    x, y = rows(classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that so few iterations do not converge
        estimator.fit(x, y)
    return estimator, x, y


def scores(subject: Subject, x: np.ndarray) -> torch.Tensor:
    return subject.model(torch.tensor(x, dtype=torch.float32))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("make", [LogisticRegression, lambda: MLPClassifier((5, 4), activation="tanh", max_iter=5)])
def test_the_twin_has_the_probabilities_of_the_estimator(make: Any, classes: int) -> None:
    estimator, x, y = fitted(make(), classes)
    subject = load_subject((estimator, x, y), "train:model")
    expected = torch.tensor(estimator.predict_proba(x), dtype=torch.float32)
    assert torch.allclose(scores(subject, x).softmax(1), expected, atol=1e-5)  # float32 against float64
    assert check_subject(subject, "train:model").task.noun == "row"


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("classes", [2, 3])
def test_one_step_of_an_mlp_is_the_gradient_of_the_twin(activation: str, classes: int) -> None:
    x, y = rows(classes)
    estimator = MLPClassifier(
        (5,), activation=activation, solver="sgd", alpha=0.0, momentum=0.0, learning_rate_init=RATE, batch_size=40
    )
    estimator.partial_fit(x, y, classes=np.arange(classes))
    subject = load_subject((estimator, x, y), "train:model")
    before = [weights.copy() for weights in (*estimator.coefs_, *estimator.intercepts_)]
    estimator.partial_fit(x, y)
    moved = [
        (one - other) / RATE for one, other in zip(before, (*estimator.coefs_, *estimator.intercepts_), strict=True)
    ]
    loss = torch.nn.functional.cross_entropy(scores(subject, x), torch.tensor(y))
    loss.backward()
    layers = [layer for layer in subject.model.modules() if isinstance(layer, torch.nn.Linear)]
    slopes = [layer.weight.grad.T for layer in layers] + [layer.bias.grad for layer in layers]  # type: ignore[union-attr]
    for slope, change in zip(slopes, moved, strict=True):
        assert np.allclose(slope.numpy(), change, atol=1e-4)  # float32, and a difference over a small step


@pytest.mark.parametrize("loss", ["hinge", "log_loss", "modified_huber", "squared_hinge", "perceptron"])
@pytest.mark.parametrize("classes", [2, 3])
def test_one_step_of_sgd_on_one_row_is_the_gradient_of_the_twin(loss: str, classes: int) -> None:
    x, y = rows(classes)
    estimator = SGDClassifier(loss=loss, alpha=1e-12, learning_rate="constant", eta0=RATE, shuffle=False)
    estimator.partial_fit(x, y, classes=np.arange(classes))
    subject = load_subject((estimator, x, y), "train:model")
    before = estimator.coef_.copy(), estimator.intercept_.copy()
    estimator.partial_fit(x[:1], y[:1])
    subject.loss(scores(subject, x[:1]), torch.tensor(y[:1])).backward()
    weight, bias = subject.model.parameters()
    assert np.allclose(weight.grad.numpy(), (before[0] - estimator.coef_) / RATE, atol=1e-4)  # type: ignore[union-attr]
    assert np.allclose(bias.grad.numpy(), (before[1] - estimator.intercept_) / RATE, atol=1e-4)  # type: ignore[union-attr]


def test_a_row_comes_back_exactly_before_the_first_fit_and_through_a_pipeline() -> None:
    x, y = rows()
    subject = load_subject((LogisticRegression(), x, y), "train:model")
    assert "LogisticRegression of scikit-learn before its first fit, all 0, 2 tensors are sent" in subject.notes[0]
    assert share(subject) == 1.0
    pipeline, x, y = fitted(make_pipeline(StandardScaler(), LogisticRegression()))
    subject = load_subject((pipeline, 100 * x + 7, y), "train:model")
    expected = pipeline[:-1].transform(100 * x + 7)
    assert np.allclose(torch.cat([one for one, _ in subject.loader]).numpy(), expected, rtol=1e-5)  # float32
    assert share(subject) == 1.0


def test_labels_may_be_words() -> None:
    x, y = rows()
    words = np.array(["cat", "dog", "emu"])[y]
    subject = load_subject((LogisticRegression(), x, words), "train:model")
    assert torch.equal(torch.cat([labels for _, labels in subject.loader]), torch.tensor(y))


X, Y = rows()


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (LogisticRegression(), r"gives LogisticRegression, expected an estimator with its data. Return \(estimator, X"),
        ((LogisticRegression(), X[:, 0], Y), r"gives X of shape \(40,\) and y of shape \(40,\), expected \(rows, col"),
        ((LogisticRegression(), X, Y[:-1]), r"gives X of shape \(40, 6\) and y of shape \(39,\)"),
        ((LogisticRegression(), X, X[:, 0]), "gives y with numbers that are no classes"),
        ((LogisticRegression(), X, 0 * Y), "returns y of a single class, expected at least two"),
        ((fitted(LogisticRegression(), 2)[0], X, Y), "gives y with 2, which is no class that it was fitted on"),
        ((MLPClassifier(), X, Y), r"has no weights yet. Call fit or partial_fit\(X, y, classes=...\) once."),
        ((LogisticRegression(), X[:0], Y[:0]), r"gives X without rows. Return \(estimator, X, y\)"),
        ((LogisticRegression(), X.astype(str) + "a", Y), "gives X with values that are no numbers: ValueError"),
        ((fitted(LogisticRegression())[0], X[:, :3], Y), "gives X of 3 columns, expected the 6 that"),
        (
            (make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y), X[:, :3], Y),
            "the pipeline 'train:model' does not take these rows: ValueError: X has 3 features",
        ),
        ((SVC(), X, Y), "is a SVC, and fedsim does not know its gradient, expected any of LogisticR"),
        ((SGDClassifier(loss="huber"), X, Y), "has loss 'huber', expected any of hinge, log_loss, modified_huber"),
        ((make_pipeline(StandardScaler(), Perceptron()), X, Y), "the pipeline 'train:model' is not fitted. Call its"),
    ],
)
def test_a_mistake_is_one_sentence(thing: Any, message: str) -> None:
    with pytest.raises(FedsimError, match=message) as raised:
        load_subject(thing, "train:model")
    assert "\n" not in str(raised.value)


def test_batches_of_two_classes_are_searched_without_a_failure() -> None:
    x, y = rows(2)
    (victim,) = attacked(load_subject((LogisticRegression(), x, y), "train:model"), batch=4, most=1).victims
    assert victim.failure is None
    assert len(victim.scores) == 4
