"""The same federation as a plain Flower app, run by Flower's own simulation on Ray."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn

from benchmarks.federation_peers._report import Stopwatch, main


def _model() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 10))


def _client_app(path: str) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        number = context.node_config["partition-id"]
        with np.load(path) as stored:
            inputs, labels = torch.from_numpy(stored[f"x{number}"]), torch.from_numpy(stored[f"y{number}"])
        model = _model()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for chosen in torch.randperm(len(labels)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()
        metrics = MetricRecord({"num-examples": len(labels)})
        return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)

    return app


def _train(clients: int, rounds: int, shares: str, stopwatch: Stopwatch) -> None:
    from flwr.simulation import run_simulation  # noqa: PLC0415 - part of what is measured

    app = ServerApp()

    @app.main()
    def server(grid: Grid, context: Context) -> None:
        strategy = FedAvg(fraction_evaluate=0.0, min_evaluate_nodes=0, min_train_nodes=2, min_available_nodes=clients)

        def ended(round_: int, arrays: ArrayRecord) -> MetricRecord | None:
            if round_ > 0:
                stopwatch()
            return None

        first = ArrayRecord(_model().state_dict())
        strategy.start(grid, first, num_rounds=rounds, train_config=ConfigRecord(), evaluate_fn=ended)

    backend = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": 2, "include_dashboard": False},
    }
    run_simulation(server, _client_app(shares), clients, backend_config=backend)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(_train)
