"""The process that runs an app for a single message. The app's standard output is redirected to standard error.

It reads message, context, state, the names of the expected figures, and the app from standard input, and writes numbers
and the app's new state to standard output. The numbers of a training are the bytes of each array, in the order and the
types that the server sent; those of an evaluation are the figures as float64. After a failure of the app it writes
nothing. Only an app that uses torch imports it: the import takes longer than all else here.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fedsim.core import process

process.prepare()

import numpy as np  # noqa: E402
from flwr.app import ArrayRecord, Context, Message, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402

from fedsim.core.foreign.flower.app_files import install_from_fab, load_app  # noqa: E402
from fedsim.core.foreign.flower.messages import (  # noqa: E402
    ContextProto,
    MessageProto,
    RecordDictProto,
    context_from_proto,
    message_from_proto,
    recorddict_from_proto,
    recorddict_to_proto,
)
from fedsim.core.foreign.flower.project import get_project_config  # noqa: E402
from fedsim.privacy.batch_norm import returned_arrays  # noqa: E402
from fedsim.processes import frames  # noqa: E402


def serve() -> None:
    """Read the guard's request, run the app, and write its arrays."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    order, header, state, names, fab = frames.read_parts(sys.stdin.buffer)
    message = message_from_proto(MessageProto.FromString(order))
    context = context_from_proto(ContextProto.FromString(header))
    context.state = recorddict_from_proto(RecordDictProto.FromString(state))
    figures = json.loads(names)
    app = load(fab)
    numbers = evaluate(app, message, context, figures) if figures else train(app, message, context)
    frames.write_parts(answers, numbers, recorddict_to_proto(context.state).SerializeToString())


def train(app: ClientApp, message: Message, context: Context) -> bytes:
    """Return the bytes of the arrays with which an app answers; all else that it says is left out.

    Raises:
        ValueError: it answers with an error, or with no arrays of the received names, shapes and types.
    """
    received = next(iter(message.content.array_records.values())).copy()
    return b"".join(_bytes_like(received, _arrays_of(received, _content_of_reply(app, message, context))))


def evaluate(app: ClientApp, message: Message, context: Context, names: Sequence[str]) -> bytes:
    """Return the figures of these names as float64, NaN for a figure that is missing or no number.

    Raises:
        ValueError: the app answers with an error.
    """
    figures: dict[str, object] = {}
    for record in _content_of_reply(app, message, context).metric_records.values():
        figures |= record
    return np.array([_number(figures.get(name)) for name in names], np.float64).tobytes()


def _content_of_reply(app: ClientApp, message: Message, context: Context) -> RecordDict:
    reply = app(message=message, context=context)
    if reply.has_error():
        raise ValueError(f"the app answers with an error: {reply.error.reason}")
    return reply.content


def _number(figure: object) -> float:
    return float(figure) if isinstance(figure, int | float) else math.nan


def load(fab: bytes) -> ClientApp:
    """Return the ClientApp in an archive, which is unpacked into this folder."""
    folder = install_from_fab(fab, install_dir=Path.cwd(), skip_prompt=True)
    name = get_project_config(folder)["tool"]["flwr"]["app"]["components"]["clientapp"]
    app = load_app(name, ImportError, folder)
    if not isinstance(app, ClientApp):
        raise ImportError(f"{name} is of type {type(app).__name__}, expected a ClientApp")
    return app


def _arrays_of(received: ArrayRecord, content: RecordDict) -> ArrayRecord:
    fitting = [record for record in content.array_records.values() if record.keys() == received.keys()]
    if len(fitting) != 1:
        raise ValueError(f"{len(fitting)} array records of the reply have the names that the server sent, expected 1")
    return fitting[0]


def _bytes_like(received: ArrayRecord, sent: ArrayRecord) -> list[bytes]:
    """Return the bytes of the sent arrays.

    Arrays that leave as received may have another type: a strategy's mean of counters is a float, which the app's model
    stores as an integer.
    """
    parts: list[bytes] = []
    arrays = {name: array.numpy() for name, array in received.items()}
    returned = returned_arrays({name: array.dtype.kind in "fc" for name, array in arrays.items()}, "received")
    for name, expected in arrays.items():
        given = sent[name].numpy()
        if name in returned and given.dtype.kind in "biuf":
            given = given.astype(expected.dtype)
        if given.shape != expected.shape or given.dtype != expected.dtype:
            raise ValueError(
                f"'{name}' is {given.shape} of {given.dtype}, expected {expected.shape} of {expected.dtype}"
            )
        parts.append(np.ascontiguousarray(given).tobytes())
    return parts


if __name__ == "__main__":
    serve()
