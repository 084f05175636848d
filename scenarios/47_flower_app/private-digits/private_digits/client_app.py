"""The client: trains on its share, and sends the privatised update."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsim.federation.mods import as_mod
from private_digits.task import digits, make_model

app = ClientApp(mods=[as_mod("local-dp", clip=0.5, noise_multiplier=1.0)])


@app.train()
def fit(message: Message, context: Context) -> Message:
    """Reply with the weights after a step on all examples."""
    config, node = context.run_config, context.node_config
    model = make_model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    images, labels = digits(int(node["partition-id"]), int(node["num-partitions"]))
    images, labels = images[: int(config["examples"])], labels[: int(config["examples"])]
    optimizer = torch.optim.SGD(model.parameters(), lr=float(config["learning-rate"]))
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    metrics = MetricRecord({"num-examples": len(images)})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)
