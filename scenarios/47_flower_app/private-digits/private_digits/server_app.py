"""The server: averages weights, and reports their accuracy."""

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from private_digits.task import digits, make_model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for some rounds."""
    torch.manual_seed(0)
    arrays = ArrayRecord(make_model().state_dict())
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy.start(grid, arrays, num_rounds=int(context.run_config["num-rounds"]), evaluate_fn=accuracy)


def accuracy(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Return the share of correctly classified images."""
    model = make_model()
    model.load_state_dict(arrays.to_torch_state_dict())
    images, labels = digits(0)
    return MetricRecord({"accuracy": (model(images).argmax(1) == labels).float().mean().item()})
