"""Parent process of `fedsim which`: the user's code runs in a child process with limited memory."""

from __future__ import annotations

from collections.abc import Sequence
from tempfile import TemporaryFile
from typing import Any

from fedsim.core.errors import FedsimError
from fedsim.core.process import command_of
from fedsim.core.types import Knowledge
from fedsim.processes.child_process import ChannelClosed, ChildProcess
from fedsim.processes.frames import json_frame

_MOST_ANSWER = 1 << 22  # bytes
_MOST_SECONDS = 300.0  # wall-clock seconds, with the import of the target


def overview_of_target(target: str, batch_size: int, knows: Sequence[Knowledge], memory: float) -> dict[str, Any]:
    """Return the overview of the attacks on an import target, as nested dictionaries and lists.

    Args:
        target: ``package.module:name`` or ``folder/file.py:name``, or a Flower app.
        batch_size: examples behind the update.
        knows: granted knowledge.
        memory: GiB of address space for the user's code; 0: no limit.

    Raises:
        FedsimError: the user's code cannot be imported, raises, hangs or exceeds its memory, or does not fit.
    """
    order = {"target": target, "batch_size": batch_size, "knows": list(knows)}
    with (
        TemporaryFile() as log,
        ChildProcess(command_of("fedsim.applicability.child", str(memory)), stderr=log) as child,
    ):
        child.send(json_frame(order))
        try:
            frame = child.receive(_MOST_ANSWER, _MOST_SECONDS)
        except ChannelClosed as error:
            raise FedsimError(f"the process that ran '{target}' ended, perhaps for lack of memory.") from error
    if frame is None:
        raise FedsimError(
            f"'{target}' was not ready within {_MOST_SECONDS:.0f} s. Let its module import and its loader do less."
        )
    answer = frame.json()
    if "mistake" in answer:
        raise FedsimError(answer["mistake"])
    return answer
