"""The local engine: state of clients, and Flower's internals that it uses."""

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsim.federation.engines.local import LocalGrid


def test_a_clients_state_is_committed_only_when_it_answered() -> None:
    app = ClientApp()

    @app.query()
    def count(message: Message, context: Context) -> Message:
        memory = context.state.setdefault("memory", ConfigRecord({"calls": 0}))
        memory["calls"] = int(memory["calls"]) + 1  # type: ignore[arg-type]
        if message.content.config_records["ask"]["fail"]:
            raise RuntimeError("crash after the change")
        return Message(RecordDict({"calls": MetricRecord({"n": int(memory["calls"])})}), reply_to=message)  # type: ignore[arg-type]

    grid = LocalGrid(app, 2, {})

    def ask(fail: bool) -> Message:
        content = RecordDict({"ask": ConfigRecord({"fail": fail})})
        (reply,) = grid.send_and_receive([Message(content, dst_node_id=1, message_type="query")])
        return reply

    assert ask(False).content.metric_records["calls"]["n"] == 1
    failed = ask(True)
    assert failed.has_error()
    assert "crash after the change" in str(failed.error.reason)
    assert ask(False).content.metric_records["calls"]["n"] == 2


def test_flowers_internals_that_the_grid_uses_are_where_they_were() -> None:
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity

    assert Run.create_empty(run_id=1).run_id == 1
    TaskIdentity.task_id = 1
    assert TaskIdentity.task_id == 1
    message = Message(RecordDict(), dst_node_id=1, message_type="query")
    assert "_message_id" in message.metadata.__dict__
