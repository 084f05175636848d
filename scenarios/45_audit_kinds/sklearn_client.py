"""A linear classifier and a regressor of scikit-learn with the client's rows and labels."""

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def make_client() -> tuple[Pipeline, np.ndarray, np.ndarray]:
    """Return a fitted pipeline and its data."""
    rows, labels = load_breast_cancer(return_X_y=True)
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, labels), rows, labels


def make_regressor() -> tuple[Pipeline, np.ndarray, np.ndarray]:
    """Return a fitted pipeline that foretells a number, and its data."""
    rows, numbers = load_diabetes(return_X_y=True)
    return make_pipeline(StandardScaler(), Ridge()).fit(rows, numbers), rows, numbers / 100
