"""The server: averages weights."""

import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from digit_app.task import make_model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for some rounds."""
    torch.manual_seed(0)
    arrays = ArrayRecord(make_model().state_dict())
    FedAvg(fraction_evaluate=0.0).start(grid, arrays, num_rounds=int(context.run_config["num-rounds"]))
