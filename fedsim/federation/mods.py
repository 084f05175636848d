"""A defense as an ordinary Flower mod, for somebody else's ClientApp: what it cannot defend, the app does not send."""

from __future__ import annotations

import copy
import logging
from typing import Any, cast, final

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor

from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError, Refused
from fedsim.core.hooks import Defense, HookContext, PublicFederation
from fedsim.core.types import Update
from fedsim.privacy import discrete_noise
from fedsim.privacy.history import history_key, spend
from fedsim.privacy.noise_recovery.torch_state import fresh_generator

_TRAIN, _METRICS, _EXAMPLES = "train", "metrics", "num-examples"
_MOD_FAILED = 6  # Flower's MOD_FAILED_PRECONDITION
COVERED = (torch.float32, torch.float64)  # coarser floats round a clipped update to a larger norm
_FAILED = "the app failed; the log of the client says why"
_UNCHECKED = "the check of what the server sent failed; the log of the client says why"
_TOUCHED = "the app's state holds what this mod keeps there: the app writes it, or is behind two mods of one defense"
_LOG = logging.getLogger(__name__)
# What a mod knows of the app that it is in: one update a call, and nothing that would amplify privacy.
_ALONE = PublicFederation(
    algorithm="fedavg",
    rounds=1,
    steps=1,
    batch_size=1,
    examples=1,
    most_examples=1,
    shape=(),
    classes=1,
    sampling="passes",
    clients=1,
    cohort=1.0,
    cohort_sampling="fixed",
    loss_terms=(),
    batch_readers=(),
    hides_updates=False,
    smallest_sum=1,
    quantisation=None,
)
_OUTSIDE = ("on_received", "on_upload")
_INSIDE = ("prepare", "on_batch", "loss", "on_examples", "on_gradient")


def as_mod(name: str, *, seed: int | None = None, **settings: Any) -> DefendingMod:
    """Return a mod that runs a defense on every update that a ClientApp sends.

    A defense that looks at what the server sent does so before the app; where it refuses or fails, the app is not run.
    The update is the difference between the weights in a train message, of any action, and those in the reply. What
    cannot be defended is not sent: Flower gets an error that says why. Integer arrays travel as they are. What the
    defense remembers, and how often it ran, is kept in `Context.state`, in records that the app does not get; so is
    what every call of a private defense has cost: `fedsim.privacy.history.spent` returns it, and a mod outside of this
    one can read it. A `target_epsilon` is that of one call.

    A private defense lets nothing through that its guarantee does not cover. It writes a reply of its own, with names,
    types and order of the arrays that the server sent, their private values, and `num-examples` as the defense states
    it; to other messages an empty one; of errors that they happened.

    Args:
        name: of a defense that changes uploads or looks at what the server sent; those with
            `applies` need ``applies="per_update"``.
        seed: of its randomness, for tests and simulations, together with run, node and number of the call. Without a
            seed, which is what protects, Gaussian noise is discrete and comes from ChaCha20, with a new key of the
            operating system for each tensor.
        settings: of the defense.

    Raises:
        FedsimError: there is no such defense, a setting is wrong, a private defense adds no noise, or it works inside
            local training, which a mod does not see.
    """
    method = registry.get("defense", name)
    try:
        defense: Defense[Any] = method.make(method.config.model_validate(settings))
    except ValueError as error:
        raise FedsimError(f"defense '{name}': {error}") from error
    _check(name, defense)
    return DefendingMod(name, defense, seed)


class _Refusal(FedsimError):
    """What a client must not send. The message goes to the server, so it holds no words of the app."""


@final
class DefendingMod:
    """Flower's mod: it sends what it has defended, or why it sends nothing.

    Attributes:
        mechanism: what a call costs, None where the defense is not private.
    """

    def __init__(self, name: str, defense: Defense[Any], seed: int | None) -> None:
        self._name = name
        self._defense = defense
        self._seed = seed
        self.mechanism = defense.mechanism(_ALONE)
        self._kept = frozenset((_calls(name), _memory(name), history_key(name)))

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Return the app's reply as it may leave, or an error that says why none does."""
        try:
            return self._reply(message, context, call_next)
        except _Refusal as refusal:
            return self._error(message, str(refusal))
        except Exception:
            if self.mechanism is None:
                raise
            # An error's own words may tell of the data.
            _LOG.exception("the app behind defense '%s' failed", self._name)
            return self._error(message, _FAILED)

    def _reply(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        message_type = message.metadata.message_type
        if message_type.split(".")[0] == _TRAIN:
            return self._train(message, context, call_next)
        reply = self._answer(message, context, call_next)
        if self.mechanism is None or reply.has_error():
            return reply
        _check_empty(message_type, reply.content)
        return Message(RecordDict(), reply_to=message)

    def _answer(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Return the app's reply, or that it failed. The app gets copies: of the message, and of what is its state."""
        inner = copy.copy(context)
        inner.state = RecordDict({key: record for key, record in context.state.items() if key not in self._kept})
        reply = call_next(message if self.mechanism is None else _copied(message), inner)
        if not self._kept.isdisjoint(inner.state):
            raise _Refusal(_TOUCHED)
        for key in set(context.state) - self._kept:
            del context.state[key]
        context.state.update(inner.state)
        if self.mechanism is None or not reply.has_error():
            return reply
        _LOG.error("the app behind defense '%s' failed: %s", self._name, reply.error.reason)
        return self._error(message, _FAILED)

    def _train(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        name, record = _only_arrays(message.content, "what the server sent")
        received = record.to_torch_state_dict()
        here = _here(self._name, self._seed, context, received)
        self._inspect(received, here)
        reply = self._answer(message, context, call_next)
        if reply.has_error():
            return reply
        place, trained = _only_arrays(reply.content, "the reply")
        arrays = trained.to_torch_state_dict()
        _check_update(received, arrays)
        if self.mechanism is not None:
            _check_covered(received, arrays, reply.content)
        moved = {n: received[n] - arrays[n] for n in received if arrays[n].is_floating_point()}
        examples = 1 if self.mechanism is not None else _examples(reply.content)
        update = self._defense.on_upload(Update("delta", moved, {}, examples, 0.0), here)
        sent = ArrayRecord({n: received[n] - update.tensors[n] if n in moved else arrays[n] for n in received})
        _remember(self._name, context, self._defense, here)
        if self.mechanism is None:
            reply.content[place] = sent
            return reply
        spend(context.state, {self._name: self.mechanism})
        metrics = MetricRecord({_EXAMPLES: update.examples})
        return Message(RecordDict({name: sent, _METRICS: metrics}), reply_to=message)

    def _inspect(self, received: dict[str, Tensor], here: HookContext) -> None:
        """Let the defense look at what the server sent: the app trains only where that ended well."""
        if not self._defense.overrides("on_received"):
            return
        try:
            self._defense.on_received({name: tensor.clone() for name, tensor in received.items()}, here)
        except Refused as why:
            raise _Refusal(f"refused: {why}") from why
        except Exception as error:
            _LOG.exception("defense '%s' failed at what the server sent", self._name)
            raise _Refusal(_UNCHECKED) from error

    def _error(self, message: Message, why: str) -> Message:
        return Message(Error(code=_MOD_FAILED, reason=f"defense '{self._name}': {why}."), reply_to=message)


def _check(name: str, defense: Defense[Any]) -> None:
    if hasattr(defense.config, "applies"):
        if defense.config.applies != "per_update":
            raise FedsimError(f"defense '{name}' works on every local step. Give the mod applies=\"per_update\".")
        return
    inside = [moment for moment in _INSIDE if defense.overrides(moment)]
    if inside or not any(map(defense.overrides, _OUTSIDE)):
        raise FedsimError(
            f"defense '{name}' works inside local training ({', '.join(inside)}), which a mod does not see. Use one "
            "that changes uploads or looks at what the server sent, or train with fedsim."
        )
    if defense.overrides("mechanism") and defense.mechanism(_ALONE) is None:
        raise FedsimError(f"defense '{name}': without noise it guarantees nothing. Set noise_multiplier above 0.")


def _check_update(received: dict[str, Tensor], trained: dict[str, Tensor]) -> None:
    """Refuse arrays that are no update of the received ones, or that no defense changes."""
    if received.keys() != trained.keys():
        raise _Refusal("the reply's arrays have other names than those the server sent: there is no update")
    for name, tensor in trained.items():
        if tensor.shape != received[name].shape:
            raise _refusal("an array of the reply has another shape than the one that the server sent", name)
        if tensor.is_complex():
            raise _refusal("an array of the reply is complex, and would travel undefended. Send real numbers", name)


def _check_covered(received: dict[str, Tensor], trained: dict[str, Tensor], content: RecordDict) -> None:
    """Refuse what the guarantee of a private defense does not cover."""
    for name, tensor in trained.items():
        if tensor.dtype not in COVERED:
            raise _refusal(
                "an array of the reply is of a type that the guarantee does not cover. Expected float32 or float64; in "
                "place of batch normalisation, which counts steps, use group or layer normalisation",
                f"{name}, {tensor.dtype}",
            )
        if tensor.dtype != received[name].dtype:
            raise _refusal("an array of the reply is of another type than the one that the server sent", name)
    for metrics in content.metric_records.values():
        extra = [metric for metric in metrics if metric != _EXAMPLES]
        if extra:
            raise _refusal(
                f"the reply states a metric that the guarantee does not cover. Leave out all metrics but '{_EXAMPLES}'",
                str(extra[0]),
            )
    for key, config in content.config_records.items():
        if len(config):
            raise _refusal("the reply holds a config record, which the guarantee does not cover. Leave it out", key)


def _check_empty(message_type: str, content: RecordDict) -> None:
    """Refuse an answer outside of training that says anything."""
    held = [key for key, record in content.items() if len(record)]
    if held:
        raise _refusal(
            f"the answer to '{message_type}' is not empty, and the guarantee covers the arrays of training alone. "
            "Answer with nothing, or send this app train messages only",
            held[0],
        )


def _refusal(why: str, what: str) -> _Refusal:
    """Return a refusal, and write what of the app's it is about into the client's log alone."""
    _LOG.error("%s: %s", why, what)
    return _Refusal(why)


def _examples(content: RecordDict) -> int:
    """Return the number of examples as Flower's strategies read it, or 1."""
    for metrics in content.metric_records.values():
        if _EXAMPLES in metrics:
            return int(cast("float", metrics[_EXAMPLES]))
    return 1


def _copied(message: Message) -> Message:
    """Return a message that the app may change; a reply to the other one is not changed by that."""
    content = RecordDict({key: record.copy() for key, record in message.content.items()})
    # The overload that keeps the metadata is not among Flower's declared ones.
    return Message(content, metadata=copy.copy(message.metadata))  # pyright: ignore[reportCallIssue]


def _here(name: str, seed: int | None, context: Context, received: dict[str, Tensor]) -> HookContext:
    count = cast("int", context.state.config_records.get(_calls(name), ConfigRecord({"calls": 0}))["calls"]) + 1
    kept = context.state.array_records.get(_memory(name), ArrayRecord())
    memory: dict[str, Tensor] = {key: torch.as_tensor(array.numpy()).clone() for key, array in kept.items()}
    if seed is None:
        # Draws that protect nobody, such as the rows that a check looks at, come from torch's generator.
        return HookContext(
            count, context.node_id, 0, fresh_generator(), received, memory, secure_noise=discrete_noise.add_discrete
        )
    generator = seeding.generator(seed, f"mod {name}", context.run_id, context.node_id, count)
    return HookContext(count, context.node_id, 0, generator, received, memory)


def _remember(name: str, context: Context, defense: Defense[Any], here: HookContext) -> None:
    context.state[_calls(name)] = ConfigRecord({"calls": here.round})
    if defense.remembers:
        context.state[_memory(name)] = ArrayRecord(here.memory)


def _only_arrays(content: RecordDict, what: str) -> tuple[str, ArrayRecord]:
    records = list(content.array_records.items())
    if len(records) != 1:
        raise _refusal(f"{what} must hold one array record", f"it holds {len(records)}")
    return records[0]


def _calls(name: str) -> str:
    return f"fedsim: calls of {name}"


def _memory(name: str) -> str:
    return f"fedsim: memory of {name}"
