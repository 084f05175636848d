"""Replies that leave a site: private arrays or metrics in a message built by the guard, or a fixed sentence.

Decisions before the app runs do not depend on the site's data, so their reason may be sent. After the app has run, the
same sentence covers all failures.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from torch import Tensor

from fedsim.core.errors import ClientRefusal, FedsimError
from fedsim.core.foreign.flower.messages import ClientAppCallable, Mod
from fedsim.core.hooks import NoiseAdder
from fedsim.core.types import Mechanism, Tensors
from fedsim.federation.mods import COVERED, as_mod
from fedsim.guard.noised_metrics import add_metric_noise
from fedsim.guard.policy import EVALUATE, EXAMPLES, TRAIN, GuardPolicy, category_of
from fedsim.privacy.discrete_noise import add_discrete
from fedsim.privacy.ledger import BudgetSpent, Ledger

_REFUSED = 6  # Flower's MOD_FAILED_PRECONDITION
_METRICS = "metrics"
_NOTHING = "nothing is sent for this message"
_LOG = logging.getLogger(__name__)

RunApp = Callable[[Tensors], Tensors]
"""Runs the app, and returns tensors with names, shapes and types of the given tensors.

They are the arrays of a training, or the figures of an evaluation as scalars, NaN for a missing figure.
"""


@dataclass(frozen=True)
class PrivateReply:
    """Reply to a message.

    Attributes:
        reply: the message itself.
        reservation: number of the ledger's entry, None if no app ran and nothing was spent.
        why: reason of an error, for the site's log; '' if an update or metrics are sent.
    """

    reply: Message
    reservation: int | None
    why: str


class ReplyPrivatizer:
    """Answers messages under a policy, and records their cost in the ledger before an app runs."""

    def __init__(self, policy: GuardPolicy, ledger: Ledger, add_noise: NoiseAdder = add_discrete) -> None:
        """Prepare the defenses.

        Args:
            policy: of the site.
            ledger: that is charged.
            add_noise: adds the noise of metrics.
        """
        self._policy, self._ledger, self._add_noise = policy, ledger, add_noise
        self._mods, self._mechanisms = policy.mods(), policy.mechanisms()
        self._check = [as_mod("server-check")] if policy.server_check else []
        self._run, self._state = 0, RecordDict()  # state of the defenses in the current run

    def answer(self, message: Message, app: str, run_app: RunApp) -> PrivateReply:
        """Return the reply to a message; no failure sends data without the policy's noise.

        Args:
            message: from the server.
            app: SHA-256 of the app that it is for.
            run_app: runs the app; its exceptions are failures of the app.
        """
        charge = _Charge(partial(self._reserve, message, app))
        try:
            self._admit_message(message, app)
            answer = self._evaluate if _category(message) == EVALUATE else self._train
            return PrivateReply(answer(message, run_app, charge), charge.reservation, "")
        except FedsimError as error:
            why, said = str(error), _public_reason(error)
        except Exception as error:
            _LOG.exception("the guard failed")
            why, said = f"the guard failed: {type(error).__name__}: {error}", _NOTHING
        return PrivateReply(
            error_reply(message, said if charge.reservation is None else _NOTHING), charge.reservation, why
        )

    def _reserve(self, message: Message, app: str, mechanisms: Sequence[Mechanism]) -> int:
        metadata = message.metadata
        description = {
            "run": str(metadata.run_id),
            "app": app,
            "message": metadata.message_id,
            "category": _category(message),
        }
        return self._ledger.reserve(self._policy.subject, mechanisms, self._policy.budget.allowance, description)

    def _admit_message(self, message: Message, app: str) -> None:
        """Check the app, and type and number of the message.

        Raises:
            ClientRefusal: the policy does not allow the message.
        """
        apps, rules = self._policy.apps, self._policy.messages
        if apps.sha256 != "any" and app not in apps.sha256:
            raise ClientRefusal(f"this site does not run the app with SHA-256 {app}")
        if message.metadata.message_type not in rules.types:
            raise ClientRefusal(f"this site answers {', '.join(rules.types)} alone")
        if self._number_answered(message) >= rules.rounds:
            raise ClientRefusal(f"this site answers {rules.rounds} messages of a run")

    def _number_answered(self, message: Message) -> int:
        """Return the number of messages of this run and category in the ledger; older entries are of training."""
        run, category = str(message.metadata.run_id), _category(message)
        abouts = (entry.about for entry in self._ledger.entries())
        return sum(about.get("run") == run and about.get("category", TRAIN) == category for about in abouts)

    def _train(self, message: Message, run_app: RunApp, charge: _Charge) -> Message:
        """Return the private update as a reply."""
        name, received = self._received_arrays(message)
        charging = partial(_record_first, charge, self._mechanisms)
        chain = _wrap_app([*self._check, charging, *self._mods], partial(self._train_app, run_app, name, received))
        reply = chain(message, self._context(message))
        if reply.has_error():
            raise ClientRefusal((reply.error.reason or _NOTHING).rstrip("."))
        return self._build_reply(message, name, received, reply)

    def _received_arrays(self, message: Message) -> tuple[str, dict[str, Tensor]]:
        """Return name and tensors of the received arrays.

        Raises:
            ClientRefusal: no defense covers such arrays.
        """
        name, record = _only_record(message)
        received = record.to_torch_state_dict()
        covered = received.keys() - self._returned_arrays(received)
        if not covered or any(received[array].dtype not in COVERED for array in covered):
            raise ClientRefusal("a message holds arrays that no defense covers, expected float32 or float64")
        return name, received

    def _evaluate(self, message: Message, run_app: RunApp, charge: _Charge) -> Message:
        """Return the noised metrics that are due as a reply, and the middle of its range for each other metric."""
        metrics = self._policy.metrics
        if self._policy.messages.evaluate == "decline-silently":
            return self._metrics_reply(message, {})
        _only_record(message)
        for check in self._check:
            check.inspect(message, self._context(message))
        mechanisms = self._policy.metric_mechanisms(self._number_answered(message) + 1)
        due = [name for name, mechanism in zip(metrics, mechanisms, strict=True) if mechanism.steps]
        reservation = charge.record(mechanisms)
        figures = {name: metric.middle for name, metric in metrics.items()}
        if not due:
            self._ledger.settle(reservation)
            charge.reservation = None  # nothing was spent
            return self._metrics_reply(message, figures)
        for name, figure in self._app_figures(due, run_app).items():
            figures[name] = add_metric_noise(figure, metrics[name], self._add_noise)
        return self._metrics_reply(message, figures)

    def _app_figures(self, names: Sequence[str], run_app: RunApp) -> dict[str, float]:
        """Return the app's figures, NaN after a failure of the app."""
        try:
            figures = run_app({name: torch.zeros((), dtype=torch.float64) for name in names})
            return {name: float(figures[name]) for name in names}
        except Exception as error:
            _LOG.warning("the app failed: %s", error)
            if self._policy.messages.on_app_failure == "error":
                raise FedsimError(f"the app failed: {error}") from error
            return dict.fromkeys(names, math.nan)

    def _metrics_reply(self, message: Message, figures: Mapping[str, float]) -> Message:
        metrics = MetricRecord({EXAMPLES: 1, **self._policy.messages.metrics, **figures})
        return Message(RecordDict({_METRICS: metrics}), reply_to=message)

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


class _Charge:
    """The cost of a message, recorded after the check of the server's content and before the app runs.

    Attributes:
        reservation: number of the ledger's entry; None before the cost is recorded.
    """

    def __init__(self, reserve: Callable[[Sequence[Mechanism]], int]) -> None:
        self._reserve = reserve
        self.reservation: int | None = None

    def record(self, mechanisms: Sequence[Mechanism]) -> int:
        self.reservation = self._reserve(mechanisms)
        return self.reservation


def _record_first(
    charge: _Charge,
    mechanisms: Sequence[Mechanism],
    message: Message,
    context: Context,
    call_next: ClientAppCallable,
) -> Message:
    """As a mod, record the cost of a message before the next mod."""
    charge.record(mechanisms)
    return call_next(message, context)


def _category(message: Message) -> str:
    return category_of(message.metadata.message_type)


def _only_record(message: Message) -> tuple[str, ArrayRecord]:
    records = list(message.content.array_records.items())
    if len(records) != 1:
        raise ClientRefusal(f"a message has {len(records)} array records, expected 1")
    return records[0]


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
