"""A linear classifier of scikit-learn with the client's rows and labels."""

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def make_client() -> tuple[Pipeline, np.ndarray, np.ndarray]:
    """Return a fitted pipeline and its data."""
    rows, labels = load_breast_cancer(return_X_y=True)
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, labels), rows, labels
