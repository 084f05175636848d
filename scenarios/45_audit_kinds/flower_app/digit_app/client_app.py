"""The client: trains on its share."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digit_app.task import make_model, partition, train

app = ClientApp()


@app.train()
def fit(message: Message, context: Context) -> Message:
    """Answer with the trained weights."""
    config, node = context.run_config, context.node_config
    model = make_model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    data = partition(int(node["partition-id"]), int(node["num-partitions"]), int(config["examples"]))
    loss = train(model, data, int(config["batch-size"]), float(config["learning-rate"]))
    metrics = MetricRecord({"num-examples": len(data), "loss": loss})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)
