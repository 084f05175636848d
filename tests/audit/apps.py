"""A Flower ClientApp as a user has it: its own training loop, and no thought of fedsim."""

import torch
from clients import images, perceptron
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from fedsim.audit import Subject

app = ClientApp()
EXAMPLES = 1
RATE = 0.05


@app.train()
def train(message: Message, context: Context) -> Message:
    assert context.run_config["fedskel.passes"] == 1, "what `flwr run` would hand over"
    model = perceptron()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    inputs, labels = images(EXAMPLES).tensors
    torch.manual_seed(1)
    nn.functional.cross_entropy(model(inputs), labels).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(parameter.grad, alpha=RATE)
    content = {
        "arrays": ArrayRecord(model.state_dict()),
        "metrics": MetricRecord({"num-examples": len(inputs), "loss": 1.0}),
    }
    return Message(RecordDict(content), reply_to=message)


broken = ClientApp()


@broken.train()
def fails(message: Message, context: Context) -> Message:
    raise LookupError("no partition")


short = ClientApp()


@short.train()
def forgets(message: Message, context: Context) -> Message:
    """Answer without the last tensor."""
    arrays = message.content.array_records["arrays"].to_torch_state_dict()
    arrays.popitem()
    return Message(RecordDict({"arrays": ArrayRecord(arrays)}), reply_to=message)


def make() -> Subject:
    """Return the same model, and the examples that the app trains on."""
    torch.manual_seed(3)
    data = list(zip(*(tensor[:, None] for tensor in images(EXAMPLES).tensors), strict=True))
    return Subject(perceptron(), loader=data, test=data, learning_rate=RATE)
