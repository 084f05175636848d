"""A defense as an ordinary Flower mod, for somebody else's ClientApp: it changes what the app answers."""

from __future__ import annotations

import secrets
from typing import Any, cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod
from torch import Tensor

from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Defense, Here, Rules
from fedsim.core.types import Update
from fedsim.privacy.history import spend

_TRAIN = "train"
# What a mod knows of the app that it is in: one update a call, and nothing that would amplify privacy.
_ALONE = Rules(
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
_INSIDE = ("prepare", "on_batch", "loss", "on_examples", "on_gradient")


def as_mod(name: str, *, seed: int | None = None, **settings: Any) -> Mod:
    """Return a mod that runs a defense on every update that a ClientApp sends.

    The update is the difference between the weights in the train message and those in the reply. Integer arrays
    travel as they are. What the defense remembers, and how often it ran, is kept in `Context.state`, so that noise is
    never used twice; so is what every call of a private defense has cost: `fedsim.privacy.history.spent` returns it. A
    `target_epsilon` is that of one call.

    Args:
        name: of a defense that changes uploads; those with `applies` need ``applies="per_update"``.
        seed: of its randomness, for tests and simulations; from the operating system when absent, as it must be where
            noise protects somebody.
        settings: of the defense.

    Raises:
        FedsimError: there is no such defense, a setting is wrong, or it works inside local training, which a mod does
            not see.
    """
    method = registry.get("defense", name)
    try:
        defense: Defense[Any] = method.make(method.config.model_validate(settings))
    except ValueError as error:
        raise FedsimError(f"defense '{name}': {error}") from error
    _check(name, defense)
    mechanism = defense.mechanism(_ALONE)
    secret = secrets.randbits(63) if seed is None else seed

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type != _TRAIN:
            return call_next(message, context)
        received = _only_arrays(message.content, f"what the server sent to defense '{name}'").to_torch_state_dict()
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        key = next(iter(reply.content.array_records), "")
        trained = _only_arrays(reply.content, f"the reply that defense '{name}' should change").to_torch_state_dict()
        here = _here(name, secret, context, received)
        reply.content[key] = ArrayRecord(_changed(defense, here, received, trained, reply.content))
        _remember(name, context, defense, here)
        if mechanism is not None:
            spend(context.state, {name: mechanism})
        return reply

    return mod


def _check(name: str, defense: Defense[Any]) -> None:
    if hasattr(defense.config, "applies"):
        if defense.config.applies != "per_update":
            raise FedsimError(f"defense '{name}' works on every local step. Give the mod applies=\"per_update\".")
        return
    inside = [moment for moment in _INSIDE if defense.overrides(moment)]
    if inside or not defense.overrides("on_upload"):
        raise FedsimError(
            f"defense '{name}' works inside local training ({', '.join(inside)}), which a mod does not see. Use one "
            "that changes uploads, or train with fedsim."
        )


def _changed(
    defense: Defense[Any], here: Here, received: dict[str, Tensor], trained: dict[str, Tensor], content: RecordDict
) -> dict[str, Tensor]:
    """Return the arrays to send: received weights minus the defended update, and integer arrays as they are."""
    if received.keys() != trained.keys():
        raise FedsimError("the reply's arrays have other names than those the server sent: there is no update.")
    moved = {n: received[n] - trained[n] for n in trained if trained[n].is_floating_point()}
    update = defense.on_upload(Update("delta", moved, {}, _examples(content), 0.0), here)
    return {n: received[n] - update.tensors[n] if n in update.tensors else trained[n] for n in trained}


def _examples(content: RecordDict) -> int:
    """Return the number of examples as Flower's strategies read it, or 1."""
    for metrics in content.metric_records.values():
        if "num-examples" in metrics:
            return int(cast("float", metrics["num-examples"]))
    return 1


def _here(name: str, seed: int, context: Context, received: dict[str, Tensor]) -> Here:
    count = cast("int", context.state.config_records.get(_calls(name), ConfigRecord({"calls": 0}))["calls"]) + 1
    kept = context.state.array_records.get(_memory(name), ArrayRecord())
    generator = seeding.generator(seed, f"mod {name}", context.node_id, count)
    memory: dict[str, Tensor] = {key: torch.as_tensor(array.numpy()).clone() for key, array in kept.items()}
    return Here(count, context.node_id, 0, generator, received, memory)


def _remember(name: str, context: Context, defense: Defense[Any], here: Here) -> None:
    context.state[_calls(name)] = ConfigRecord({"calls": here.round})
    if defense.remembers:
        context.state[_memory(name)] = ArrayRecord(here.memory)


def _only_arrays(content: RecordDict, what: str) -> ArrayRecord:
    records = list(content.array_records.values())
    if len(records) != 1:
        raise FedsimError(f"{what} holds {len(records)} array records, expected one.")
    return records[0]


def _calls(name: str) -> str:
    return f"fedsim: calls of {name}"


def _memory(name: str) -> str:
    return f"fedsim: memory of {name}"
