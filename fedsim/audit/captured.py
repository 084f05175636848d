"""Captured updates: gradients in files, or the reply of a user's own Flower ClientApp.

Files are read as named tensors and never unpickled: ``.safetensors`` by its own package, ``.npz`` without objects.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fedsim.audit.loading import load
from fedsim.audit.record import AuditPlan
from fedsim.audit.single_client import world_of
from fedsim.audit.subject import CheckedSubject, ClientReply
from fedsim.core.errors import FedsimError, MissingExtra, did_you_mean, first_line
from fedsim.core.nets.tensor_files import read_npz
from fedsim.core.types import Batch, Knowledge, Tensors, Truth, Update, WireEntry
from fedsim.threat.victim import Victim

_METRIC = "num-examples"


@dataclass(frozen=True)
class Captured:
    """A captured update with the knowledge available to its attacker."""

    victim: Victim
    knows: tuple[Knowledge, ...]


def read_update(subject: CheckedSubject, plan: AuditPlan) -> Captured:
    """Return the update named by the plan, or the reply stored in the subject.

    Raises:
        FedsimError: a file cannot be read or does not fit the model, or the ClientApp fails.
    """
    if "masks" in plan.knows:
        raise FedsimError("--knows masks: the dropout masks of a captured update are unknown. Leave it out.")
    if plan.client_app is not None:
        return _capture_client_app(subject, plan, plan.client_app)
    if subject.subject.reply is not None:
        return _capture_reply(subject, plan, subject.subject.reply)
    assert plan.gradients is not None
    return _capture_files(subject, plan, plan.gradients)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` or ``.npz`` file by name.

    Raises:
        FedsimError: the file does not exist, has another suffix, or cannot be read.
    """
    if not path.is_file():
        raise FedsimError(f"no file {path}.")
    if path.suffix == ".npz":
        return read_npz(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    raise FedsimError(f"{path} ends in '{path.suffix}', expected .safetensors or .npz: a pickled file could run code.")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise MissingExtra("safetensors", 'pip install "fedsim-privacy[audit]"') from error
    try:
        return load_file(path)
    except Exception as error:
        raise FedsimError(f"cannot read tensors from {path}: {first_line(error).rstrip('.')}.") from error


def _capture_files(subject: CheckedSubject, plan: AuditPlan, path: Path) -> Captured:
    if plan.weights is not None:
        subject = replace(subject, model=model_holding(subject, read_tensors(plan.weights), plan.weights))
    gradients = _rename_tensors(subject, read_tensors(path))
    trained = {name: p for name, p in subject.model.named_parameters() if p.requires_grad}
    _check_names(gradients, trained, path)
    _check_values(gradients, trained, path)
    size = plan.batches[0]
    kind = "gradient" if subject.subject.local_steps == 1 else "delta"
    sent = {name: tensor.float() for name, tensor in gradients.items()}
    return _wrap_update(subject, plan, size, Update(kind, sent, {}, size, 0.0))


def model_holding(subject: CheckedSubject, tensors: Tensors, path: Path) -> torch.nn.Module:
    """Return a copy of the subject's model with the weights of a file loaded.

    Raises:
        FedsimError: a tensor is missing, unexpected or not finite, or has another shape or dtype than the model's.
    """
    model, weights = subject.new_model(), _rename_tensors(subject, tensors)
    known = model.state_dict()
    weights = {**_tied(weights, known), **weights}
    if subject.subject.names:  # an adapter file holds only the trained tensors
        weights = {**known, **weights}
    _check_values({name: tensor for name, tensor in weights.items() if name in known}, known, path)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise FedsimError(f"{path} does not fit the model of the factory: {why}.") from error
    return model


def _tied(weights: Tensors, known: Tensors) -> Tensors:
    """Return the tied weights stored under another name only: safetensors keeps a single name per tensor."""
    places = {tensor.data_ptr(): weights[name] for name, tensor in known.items() if name in weights}
    absent = {name: tensor.data_ptr() for name, tensor in known.items() if name not in weights}
    return {name: places[place] for name, place in absent.items() if place in places}


def _rename_tensors(subject: CheckedSubject, tensors: Tensors) -> Tensors:
    """Return tensors under the names of the model's parameters."""
    return {subject.subject.names.get(name, name): tensor for name, tensor in tensors.items()}


def _check_names(gradients: Tensors, trained: Mapping[str, Tensor], path: Path) -> None:
    strangers = sorted(gradients.keys() - trained.keys())
    if strangers:
        raise FedsimError(
            f"{path} holds '{strangers[0]}', which the model does not train.{did_you_mean(strangers[0], trained)}"
        )
    missing = sorted(trained.keys() - gradients.keys())
    if missing:
        raise FedsimError(f"{path} lacks '{missing[0]}', which the model trains.")


def _check_values(tensors: Tensors, known: Mapping[str, Tensor], path: Path) -> None:
    """Check that tensors are finite, and that shape and dtype kind match the model's tensors."""
    for name, tensor in tensors.items():
        expected = known[name]
        if tensor.shape != expected.shape:
            raise FedsimError(
                f"{path} holds '{name}' of shape {tuple(tensor.shape)}, expected {tuple(expected.shape)}, as in the "
                "model."
            )
        if expected.is_floating_point() and not tensor.is_floating_point():
            raise FedsimError(f"{path} holds '{name}' of type {tensor.dtype}, expected floating-point numbers.")
        if not bool(tensor.isfinite().all()):
            count = int((~tensor.isfinite()).sum())
            raise FedsimError(
                f"{path} holds '{name}' with {count} of {tensor.numel()} values that are not finite: the training "
                "that wrote the file diverged, or the file is damaged."
            )


def _capture_reply(subject: CheckedSubject, plan: AuditPlan, reply: ClientReply) -> Captured:
    examples = sum(map(len, reply.batches))
    update = Update("delta", reply.weight_delta, {}, examples, 0.0)
    world = world_of(subject, plan, max(map(len, reply.batches)))
    entry = WireEntry(1, 0, world.models.first_weights, update)
    return Captured(Victim(world, entry, Truth(reply.batches, (), update, reply.batches)), plan.knows)


def _capture_client_app(subject: CheckedSubject, plan: AuditPlan, target: str) -> Captured:
    """Run a round of a ClientApp in this process and take the update from its reply."""
    from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict  # noqa: PLC0415
    from flwr.clientapp import ClientApp  # noqa: PLC0415 - Flower is slow to import

    from fedsim.federation.engines.local import LocalGrid  # noqa: PLC0415 - and so is the engine

    app = load(target)
    if not isinstance(app, ClientApp):
        raise FedsimError(f"'{target}' is of type {type(app).__name__}, expected a flwr.clientapp.ClientApp.")
    weights = {name: tensor.detach().clone() for name, tensor in subject.new_model().state_dict().items()}
    grid = LocalGrid(app, 1, _run_config(Path("pyproject.toml")), 1)
    order = ConfigRecord({"server-round": 1, "lr": subject.subject.learning_rate})
    content = RecordDict({"arrays": ArrayRecord(weights), "config": order})
    (reply,) = grid.send_and_receive([Message(content, next(iter(grid.nodes)), "train")])
    if reply.has_error():
        raise FedsimError(f"the ClientApp '{target}' failed: {reply.error.reason}.")
    records = list(reply.content.array_records.values())
    if len(records) != 1:
        raise FedsimError(f"the reply of '{target}' holds {len(records)} array records, expected a single record.")
    sent = records[0].to_torch_state_dict()
    if sent.keys() != weights.keys():
        odd = sorted(sent.keys() ^ weights.keys())[0]
        raise FedsimError(f"the reply of '{target}' and the model of the factory do not agree about '{odd}'.")
    metrics = [record for record in reply.content.metric_records.values() if isinstance(record, MetricRecord)]
    examples = next((int(cast("Any", metric[_METRIC])) for metric in metrics if _METRIC in metric), plan.batches[0])
    trained = [name for name, p in subject.model.named_parameters() if p.requires_grad]
    moved = {name: weights[name] - sent[name] for name in trained}
    return _wrap_update(subject, plan, examples, Update("delta", moved, {}, examples, 0.0))


def _run_config(project: Path) -> dict[str, Any]:
    """Return the run configuration of ``flwr run``: the project's ``[tool.flwr.app.config]``, empty if missing."""
    if not project.is_file():
        return {}
    try:
        tables = tomllib.loads(project.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FedsimError(f"{project} is not TOML: {error}.") from error
    from fedsim.core.foreign.flower.project import flatten_dict  # noqa: PLC0415 - as above

    config = tables.get("tool", {}).get("flwr", {}).get("app", {}).get("config", {})
    return flatten_dict(config)


def _wrap_update(subject: CheckedSubject, plan: AuditPlan, examples: int, update_: Update) -> Captured:
    """Wrap an update as a victim with the loader's first examples as ground truth; zeros if originals are unknown."""
    data, steps = subject.dataset, subject.subject.local_steps
    rows, owned = examples * subject.subject.rows_of_one, len(data.train) // subject.subject.rows_of_one
    if subject.is_scored and examples > owned:
        raise FedsimError(
            f"the update is of {examples} examples, but the loader yields {owned} for the client. Let it yield exactly "
            "the examples behind the update, and give Subject(test=...) for others."
        )
    private = Batch(data.train.inputs[:rows], data.train.labels[:rows])
    if not subject.is_scored:
        private = Batch(torch.zeros(examples, *data.spec.shape), torch.zeros(examples, dtype=torch.long))
        plan = plan.model_copy(update={"knows": tuple(knowledge for knowledge in plan.knows if knowledge != "labels")})
    world = world_of(subject, plan, examples)
    pieces = tuple(
        Batch(*knowledge)
        for knowledge in zip(private.inputs.tensor_split(steps), private.labels.tensor_split(steps), strict=True)
    )
    truth = Truth(pieces, (), update_, pieces)
    return Captured(Victim(world, WireEntry(1, 0, world.models.first_weights, update_), truth), plan.knows)
