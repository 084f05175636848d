"""The apps for another process: a Ray actor, or the client process of a SuperNode."""

from __future__ import annotations

from collections.abc import Callable

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedsim.core.errors import FedsimError, describe_exception
from fedsim.federation import apps
from fedsim.scenario.world import World

_CLIENT_FAILED = 2


def answer(app: ClientApp, message: Message, context: Context) -> Message:
    """Return a client's reply; an exception becomes an error reply with the same text on every engine.

    The client's state is committed only after a reply: changes before an exception are discarded.
    """
    app_context = Context(
        run_id=context.run_id,
        node_id=context.node_id,
        node_config=context.node_config,
        state=RecordDict({key: record.copy() for key, record in context.state.items()}),
        run_config=context.run_config,
    )
    try:
        reply = app(message=message, context=app_context)
    except Exception as error:
        return Message(Error(code=_CLIENT_FAILED, reason=describe_exception(error)), reply_to=message)
    context.state = app_context.state
    return reply


class WorkerApp(ClientApp):
    """The ClientApp on a single torch thread."""

    def __init__(self, world_of: Callable[[Context], World] = apps.sent_world) -> None:
        """Set the function that returns the client's world."""
        super().__init__()
        self._app = apps.client_app(world_of)

    def __call__(self, message: Message, context: Context) -> Message:
        """Return the reply to a message."""
        torch.set_num_threads(1)
        return answer(self._app, message, context)


def _make_refusing_app() -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        raise FedsimError("fedsim runs the ServerApp itself: start the SuperLink with --isolation process.")

    return app


client = WorkerApp()
server = _make_refusing_app()
