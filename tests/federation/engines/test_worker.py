"""A client's answer in another process: errors read alike, and only an answer commits its state."""

from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.core.errors import FedsimError
from fedsim.federation.engines import worker


@pytest.fixture
def context() -> Context:
    state = RecordDict({"memory": ConfigRecord({"calls": 1})})
    return Context(run_id=1, node_id=2, node_config={}, state=state, run_config={"own": "theirs"})


def message() -> Message:
    return Message(RecordDict(), dst_node_id=2, message_type="query")


def counting(fails: bool, seen: list[Any]) -> ClientApp:
    app = ClientApp()

    @app.query()
    def count(asked: Message, own: Context) -> Message:
        seen.append(dict(own.run_config))
        own.state["memory"]["calls"] = int(own.state["memory"]["calls"]) + 1  # type: ignore[index,arg-type]
        if fails:
            raise LookupError("no partition")
        return Message(RecordDict(), reply_to=asked)

    return app


def test_an_answer_commits_what_the_client_remembers(context: Context) -> None:
    seen: list[Any] = []
    assert not worker.answer(counting(False, seen), message(), context).has_error()
    assert context.state["memory"]["calls"] == 2  # type: ignore[index]
    assert seen == [{"own": "theirs"}]
    assert context.run_config == {"own": "theirs"}


def test_an_exception_is_an_error_reply_and_leaves_the_state(context: Context) -> None:
    reply = worker.answer(counting(True, []), message(), context)
    assert reply.has_error()
    assert "LookupError: no partition (test_worker.py, line" in str(reply.error.reason)
    assert context.state["memory"]["calls"] == 1  # type: ignore[index]


def test_the_apps_that_flower_loads_are_a_client_and_a_server_that_refuses(context: Context) -> None:
    assert isinstance(worker.client, ClientApp)
    with pytest.raises(FedsimError, match="start the SuperLink with --isolation process"):
        worker.server(None, context)  # type: ignore[arg-type]
