"""The same federation in pfl-research (arXiv 2404.06430). Runs in an environment of its own."""
# pyright: reportMissingImports=false

from __future__ import annotations

import numpy as np
import torch
from _report import Stopwatch, main
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import nn


class _Mlp(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 10))

    def loss(self, inputs, labels, is_eval=False):  # noqa: ANN001, ANN202 - pfl's own protocol
        return nn.functional.cross_entropy(self(inputs), labels)

    def metrics(self, inputs, labels):  # noqa: ANN001, ANN202
        return {"loss": Weighted(self.loss(inputs, labels).item(), 1)}


class _Ended(TrainingProcessCallback):
    def __init__(self, stopwatch: Stopwatch) -> None:
        self._stopwatch = stopwatch

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):  # noqa: ANN001, ANN202
        self._stopwatch()
        return False, Metrics()


def _train(clients: int, rounds: int, shares: str, stopwatch: Stopwatch) -> None:
    torch.set_num_threads(1)
    with np.load(shares) as stored:
        data = {
            number: [torch.from_numpy(stored[f"x{number}"]), torch.from_numpy(stored[f"y{number}"])]
            for number in range(clients)
        }
    users = FederatedDataset.from_slices(data, MinimizeReuseUserSampler(list(data)))
    module = _Mlp()
    model = PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0))
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds, evaluation_frequency=10**9, train_cohort_size=clients, val_cohort_size=None
        ),
        SimulatedBackend(users, users),
        model,
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=0.1, local_batch_size=32),
        callbacks=[_Ended(stopwatch)],
    )


if __name__ == "__main__":
    main(_train)
