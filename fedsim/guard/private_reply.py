"""Replies that leave a site: private arrays in a message built by the guard, or a fixed sentence.

Decisions before the app runs do not depend on the site's data, so their reason may be sent. After the app has run, the
same sentence covers all failures.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from torch import Tensor

from fedsim.core.errors import ClientRefusal, FedsimError
from fedsim.core.foreign.flower.messages import ClientAppCallable, Mod
from fedsim.core.types import Tensors
from fedsim.federation.mods import COVERED, as_mod
from fedsim.guard.policy import EXAMPLES, GuardPolicy
from fedsim.privacy.ledger import BudgetSpent, Ledger

_REFUSED = 6  # Flower's MOD_FAILED_PRECONDITION
_METRICS = "metrics"
_NOTHING = "nothing is sent for this message"
_LOG = logging.getLogger(__name__)

RunApp = Callable[[Tensors], Tensors]
"""Runs the app, and returns arrays with names, shapes and types of the given arrays."""


@dataclass(frozen=True)
class PrivateReply:
    """Reply to a message.

    Attributes:
        reply: the message itself.
        reservation: number of the ledger's entry, None if no app ran and nothing was spent.
        why: reason of a missing update, for the site's log; '' if an update is sent.
    """

    reply: Message
    reservation: int | None
    why: str


class ReplyPrivatizer:
    """Answers messages under a policy, and records their cost in the ledger before an app runs."""

    def __init__(self, policy: GuardPolicy, ledger: Ledger) -> None:
        self._policy, self._ledger = policy, ledger
        self._mods = policy.mods()
        self._mechanisms = [mod.mechanism for mod in self._mods if mod.mechanism is not None]
        self._check = [as_mod("server-check")] if policy.server_check else []
        self._run, self._state = 0, RecordDict()  # state of the defenses in the current run

    def answer(self, message: Message, app: str, run_app: RunApp) -> PrivateReply:
        """Return the reply to a message; no failure sends data that did not pass the defenses.

        Args:
            message: from the server.
            app: SHA-256 of the app that it is for.
            run_app: runs the app; its exceptions are failures of the app.
        """
        charge = _BudgetMod(partial(self._reserve, message, app))
        try:
            name, received = self._admit_message(message, app)
            chain = _wrap_app([*self._check, charge, *self._mods], partial(self._train_app, run_app, name, received))
            reply = chain(message, self._context(message))
            if reply.has_error():
                raise ClientRefusal((reply.error.reason or _NOTHING).rstrip("."))
            return PrivateReply(self._build_reply(message, name, received, reply), charge.reservation, "")
        except FedsimError as error:
            why, said = str(error), _public_reason(error)
        except Exception as error:
            _LOG.exception("the guard failed")
            why, said = f"the guard failed: {type(error).__name__}: {error}", _NOTHING
        return PrivateReply(
            error_reply(message, said if charge.reservation is None else _NOTHING), charge.reservation, why
        )

    def _reserve(self, message: Message, app: str) -> int:
        description = {"run": str(message.metadata.run_id), "app": app, "message": message.metadata.message_id}
        return self._ledger.reserve(self._policy.subject, self._mechanisms, self._policy.budget.allowance, description)

    def _admit_message(self, message: Message, app: str) -> tuple[str, dict[str, Tensor]]:
        """Return name and tensors of the received arrays.

        Raises:
            ClientRefusal: the policy does not allow the message, or no defense covers such arrays.
        """
        apps, rules = self._policy.apps, self._policy.messages
        if apps.sha256 != "any" and app not in apps.sha256:
            raise ClientRefusal(f"this site does not run the app with SHA-256 {app}")
        if message.metadata.message_type not in rules.types:
            raise ClientRefusal(f"this site answers {', '.join(rules.types)} alone")
        run = str(message.metadata.run_id)
        if sum(entry.about.get("run") == run for entry in self._ledger.entries()) >= rules.rounds:
            raise ClientRefusal(f"this site answers {rules.rounds} messages of a run")
        records = list(message.content.array_records.items())
        if len(records) != 1:
            raise ClientRefusal(f"a message has {len(records)} array records, expected 1")
        name, record = records[0]
        received = record.to_torch_state_dict()
        covered = received.keys() - self._returned_arrays(received)
        if not covered or any(received[array].dtype not in COVERED for array in covered):
            raise ClientRefusal("a message holds arrays that no defense covers, expected float32 or float64")
        return name, received

    def _train_app(
        self, run_app: RunApp, name: str, received: Mapping[str, Tensor], message: Message, _context: Context
    ) -> Message:
        """Return the app's arrays as the reply that the defenses process."""
        try:
            return Message(RecordDict({name: _rename_arrays(received, run_app(received))}), reply_to=message)
        except Exception as error:
            _LOG.warning("the app failed: %s", error)
            if self._policy.messages.on_app_failure == "error":
                raise
            return Message(RecordDict({name: ArrayRecord(dict(received))}), reply_to=message)

    def _build_reply(self, message: Message, name: str, received: Mapping[str, Tensor], reply: Message) -> Message:
        """Return the reply to send: names, order and types from the server, numbers from server and defenses."""
        arrays = next(iter(reply.content.array_records.values())).to_torch_state_dict()
        arrays |= {array: received[array] for array in self._returned_arrays(received)}
        sent = ArrayRecord({n: arrays[n].to(tensor.dtype) for n, tensor in received.items()})
        metrics = MetricRecord({EXAMPLES: 1, **self._policy.messages.metrics})
        return Message(RecordDict({name: sent, _METRICS: metrics}), reply_to=message)

    def _returned_arrays(self, received: Mapping[str, Tensor]) -> frozenset[str]:
        """Return the names of the arrays that leave as received, whatever app and open defenses did to them."""
        return frozenset[str]().union(*(mod.returned_arrays(received) for mod in self._mods))

    def _context(self, message: Message) -> Context:
        """Return the defenses' own context, hidden from apps."""
        if message.metadata.run_id != self._run:
            self._run, self._state = message.metadata.run_id, RecordDict()
        return Context(self._run, message.metadata.dst_node_id, {}, self._state, {})


class _BudgetMod:
    """A mod that records the cost of a message, after the check of the server's content, before the app."""

    def __init__(self, reserve: Callable[[], int]) -> None:
        self._reserve = reserve
        self.reservation: int | None = None

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        self.reservation = self._reserve()
        return call_next(message, context)


def _rename_arrays(received: Tensors, arrays: Tensors) -> ArrayRecord:
    """Return the app's arrays under the names that the server sent.

    Raises:
        FedsimError: an array is missing, or of another shape or type.
    """
    for name, tensor in received.items():
        if name not in arrays or arrays[name].shape != tensor.shape or arrays[name].dtype != tensor.dtype:
            raise FedsimError(f"'{name}' is missing, or of another shape or type than the server sent")
    return ArrayRecord({name: arrays[name] for name in received})


def error_reply(message: Message, why: str) -> Message:
    """Return the reply that no update is sent, and why."""
    return Message(Error(_REFUSED, f"the site's guard: {why}."), reply_to=message)


def _public_reason(error: FedsimError) -> str:
    """Return the reason that a server may know; it contains nothing of ledger and policy."""
    if isinstance(error, BudgetSpent):
        return "the epsilon of this site is spent"
    return str(error) if isinstance(error, ClientRefusal) else _NOTHING


def _wrap_app(mods: list[Mod], app: ClientAppCallable) -> ClientAppCallable:
    """Return the app wrapped in mods, the first mod outermost."""
    for mod in reversed(mods):
        app = partial(_apply_mod, mod, app)
    return app


def _apply_mod(mod: Mod, call_next: ClientAppCallable, message: Message, context: Context) -> Message:
    return mod(message, context, call_next)
