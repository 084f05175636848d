"""The guard's loop: receives messages from a SuperNode, and sends the replies that its policy allows."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx

from fedsim.core.errors import FedsimError
from fedsim.guard import app_command
from fedsim.guard.node import NodeTask, RuntimeApi
from fedsim.guard.policy import EVALUATE, GuardPolicy, category_of
from fedsim.guard.private_reply import PrivateReply, ReplyPrivatizer, error_reply
from fedsim.guard.running import AppProcesses
from fedsim.privacy.ledger import Ledger
from fedsim.processes import reaper

_POLL_SECONDS, _PAUSE_SECONDS = 0.5, 5.0
_COVERING_SECONDS = 60.0  # for the guard's work on an answer: a timed-out app has the same answer time
_LOG = logging.getLogger(__name__)

Tell = Callable[[str], None]


def serve(policy: GuardPolicy, should_stop: threading.Event, tell: Tell) -> None:
    """Answer messages until a stop is requested; the current message is answered first.

    Args:
        policy: of the site.
        should_stop: set to request a stop.
        tell: receives lines for the site's operator.

    Raises:
        FedsimError: the ledger was changed, apps cannot be sandboxed, or the SuperNode does not accept this guard.
    """
    app_command.check_sandbox(policy.apps)
    ledger, api = Ledger.open(policy.ledger, policy.key), RuntimeApi(policy.node)
    if api.waits():
        tell("An earlier guard stopped during a message. The SuperNode drops that message in about a minute.")
    tell(_noise_source(policy))
    tell(f"Connects to the SuperNode at {policy.node.address}.")
    with tempfile.TemporaryDirectory(prefix="fedsim-guard-") as name, reaper.remove_if_killed(Path(name)):
        _answer_all(policy, Guard(policy, ledger, Path(name), tell), api, should_stop, tell)


def _noise_source(policy: GuardPolicy) -> str:
    is_secure = all(mod.is_secure for mod in policy.mods() if mod.mechanism is not None)
    if is_secure:
        return "Gaussian noise: ChaCha20 with keys of the operating system, not computable."
    return "Gaussian noise: torch's generator (MT19937) with a seed, computable. Remove the seed."


def _answer_all(policy: GuardPolicy, guard: Guard, api: RuntimeApi, should_stop: threading.Event, tell: Tell) -> None:
    trouble, is_connected = "", False
    while not should_stop.is_set():
        is_taking = not api.waits()
        try:
            with api.next_task() as task:
                if is_taking and not is_connected:
                    is_connected = True
                    tell(f"Connected to the SuperNode at {policy.node.address}. Waits for messages.")
                if task is None:
                    should_stop.wait(_POLL_SECONDS)
                else:
                    guard.handle(task)
            trouble = ""
        except FedsimError:
            raise
        except httpx.HTTPError as error:
            is_connected = False
            if str(error) != trouble:
                trouble = str(error)
                tell(f"The SuperNode at {policy.node.address} does not answer as expected: {trouble}. Tries again.")
            should_stop.wait(_PAUSE_SECONDS)
        except Exception:
            _LOG.exception("a message was not answered")
            should_stop.wait(_PAUSE_SECONDS)


class Guard:
    """Handles messages sequentially.

    Args:
        policy: of the site.
        ledger: that is charged.
        folder: in which apps work.
        tell: receives lines for the site's operator.
    """

    def __init__(self, policy: GuardPolicy, ledger: Ledger, folder: Path, tell: Tell) -> None:
        self._policy, self._ledger, self._tell = policy, ledger, tell
        self._cover, self._apps = ReplyPrivatizer(policy, ledger), AppProcesses(policy.apps, folder)

    def handle(self, task: NodeTask) -> None:
        """Answer a message, settle its cost after the reply was sent, and then remove the app's folder."""
        end = time.monotonic() + self._policy.apps.seconds + _COVERING_SECONDS
        try:
            covered = self._answer_task(task)
            if covered.reservation is not None and self._policy.messages.constant_time:
                self._wait(end)
            task.send(covered.reply)
            if covered.reservation is not None:
                self._ledger.settle(covered.reservation)
        finally:
            self._apps.clean()
        metadata = task.order.message.metadata
        self._tell(f"Run {metadata.run_id}, {metadata.message_type}: {_result(covered)}")

    def _wait(self, end: float) -> None:
        late = time.monotonic() - end
        if late > 0:
            self._tell(
                f"constant_time was not kept: the reply is {late:.0f} s late. Use a faster machine or less load."
            )
        time.sleep(max(0.0, -late))

    def _answer_task(self, task: NodeTask) -> PrivateReply:
        order = task.order
        if not task.is_known:
            why = "this site runs ClientApps alone"
            return PrivateReply(error_reply(order.message, why), None, why)
        app = hashlib.sha256(order.fab).hexdigest()
        return self._cover.answer(order.message, app, partial(self._apps.run, order))


def _result(covered: PrivateReply) -> str:
    if covered.why:
        return f"sent nothing: {covered.why}"
    if category_of(covered.reply.metadata.message_type) != EVALUATE:
        return "sent a private update"
    return "sent constant metrics" if covered.reservation is None else "sent noised metrics"
