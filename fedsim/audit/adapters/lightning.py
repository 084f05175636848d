"""Adapter of a LightningModule with its DataModule or loader; the loss is that of its training_step."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, cast, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedsim.audit.adapters import (
    SubjectAdapter,
    adapter,
    as_sequence,
    is_instance_by_name,
    optimizer_called,
    tensors_are,
    type_names,
)
from fedsim.audit.adapters._replaying import called_modules, check_same
from fedsim.audit.pairs import LABEL_KEYS
from fedsim.audit.subject import Subject
from fedsim.core.errors import FedsimError, describe_exception

_PACKAGES = ("lightning", "pytorch_lightning")
_PAIR = 2  # inputs and labels
_RETURN = "Return (module, datamodule), or (module, train_dataloader)."


@final
@adapter
class LightningClient(SubjectAdapter):
    """The module that training_step calls, with the rest of training_step as the loss."""

    input_description: ClassVar[str] = "(module, datamodule) of Lightning"

    @classmethod
    def matches(cls, client: Any) -> bool:
        """Return whether a part belongs to Lightning."""
        kinds = ("LightningModule", "LightningDataModule", "Trainer")
        return any(is_instance_by_name(part, kind, *_PACKAGES) for part in as_sequence(client) for kind in kinds)

    def subject(self) -> Subject:
        """Return a copy of the called module, with the loaders of the data."""
        parts = as_sequence(self.client)
        module = next((part for part in parts if is_instance_by_name(part, "LightningModule", *_PACKAGES)), None)
        if module is None or len(parts) != _PAIR:
            raise FedsimError(
                f"'{self.name}' gives {type_names(parts)}, expected a LightningModule and its data. {_RETURN}"
            )
        if not module.automatic_optimization:
            raise FedsimError(
                f"'{self.name}' optimises by hand (automatic_optimization = False), so its steps are not known. "
                "Return (model, loss, loader)."
            )
        if not any(p.requires_grad for p in module.parameters()):
            raise FedsimError(
                f"every parameter of '{self.name}' is frozen, so a client would send nothing. Call "
                "module.unfreeze(), or set requires_grad where it trains."
            )
        train, test = self._loaders(next(part for part in parts if part is not module))
        self._module: Any = _silent(copy.deepcopy(module))
        batch = self._first(train)
        self._core = self._find_called_module(batch)
        loss = _StepLoss(self._module, self._core, batch)
        self._check(loss, batch)
        optimizer, rate, notes = self._optimizer()
        return Subject(self._core, loss, train, test, optimizer=optimizer, learning_rate=rate, notes=notes)

    def input_summary(self) -> str:
        """Describe the trained module and its loss."""
        sent = sum(p.requires_grad for p in self._core.parameters())
        part_text = "" if self._core is self._module else f" of its {type(self._core).__name__}"
        return (
            f"{type(self._module).__name__} of Lightning, {tensors_are(sent, part_text)} sent after "
            "a single step; loss: from training_step"
        )

    def _loaders(self, data: Any) -> tuple[Iterable[Any], Iterable[Any] | None]:
        if not is_instance_by_name(data, "LightningDataModule", *_PACKAGES):
            if not isinstance(data, Iterable):
                raise FedsimError(
                    f"'{self.name}' gives {type(data).__name__} as its data, expected a DataModule or a loader. "
                    f"{_RETURN}"
                )
            return cast("Iterable[Any]", data), None
        try:
            data.prepare_data()
            data.setup("fit")
            train = data.train_dataloader()
        except Exception as error:
            raise FedsimError(f"the DataModule of '{self.name}' failed: {describe_exception(error)}.") from error
        try:
            test = data.val_dataloader()
        except Exception:  # no validation loader
            return train, None
        return train, test if is_instance_by_name(test, "DataLoader", "torch") else None

    def _first(self, train: Iterable[Any]) -> Any:
        batch = next(iter(train), None)
        if batch is None:
            raise FedsimError(f"the loader of '{self.name}' yields no batch. Give it the client's data.")
        is_pair = isinstance(batch, tuple | list) and len(cast("tuple[Any, ...]", batch)) == _PAIR
        if not is_pair and not (isinstance(batch, Mapping) and _label_key(batch)):
            given = f"{len(batch)} parts" if isinstance(batch, tuple | list) else type(batch).__name__
            raise FedsimError(
                f"batches of '{self.name}' are {given}, expected (inputs, labels), or a mapping with labels. Return "
                "(model, loss, loader) with such a loader."
            )
        return batch

    def _find_called_module(self, batch: Any) -> nn.Module:
        """Return the module that training_step calls.

        Raises:
            FedsimError: it calls no module or several, or fails.
        """
        trial = copy.deepcopy(self._module)
        try:
            with torch.no_grad():
                called = called_modules(lambda: _loss_of(trial.training_step(batch, 0)))
        except Exception as error:
            raise FedsimError(
                f"training_step of '{self.name}' fails without a Trainer: "
                f"{describe_exception(error)}. If it needs a Trainer, return (model, loss, "
                "loader) instead."
            ) from error
        names = [name for name, module in trial.named_modules() if any(module is name for name in called)]
        if len(called) != 1:
            calls = f"calls {' and '.join(names)} in sequence" if called else "calls no module that is trained"
            raise FedsimError(
                f"training_step of '{self.name}' {calls}, expected a single call that returns "
                "the scores. Move the calls into forward, and call self(inputs)."
            )
        return self._module.get_submodule(names[0])

    def _check(self, loss: _StepLoss, batch: Any) -> None:
        trial = copy.deepcopy(self._module).eval()
        names = {id(module): name for name, module in self._module.named_modules()}
        core = trial.get_submodule(names[id(self._core)])
        kept: list[Any] = []
        hook = core.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
        with torch.no_grad():
            actual = _loss_of(trial.training_step(batch, 0))
        hook.remove()
        if not isinstance(kept[0], Tensor):
            raise FedsimError(
                f"the call in training_step of '{self.name}' returns {type(kept[0]).__name__}, "
                "expected scores. Make forward return only the scores."
            )
        check_same(loss, kept[0], _labels_of(batch), lambda: actual, f"training_step of '{self.name}'")

    def _optimizer(self) -> tuple[str, float, tuple[str, ...]]:
        try:
            optimizer = _first_optimizer(self._module.configure_optimizers())
        except Exception:
            optimizer = None
        if optimizer is None:
            return "sgd", 0.1, ("configure_optimizers gave no optimizer without a Trainer, so SGD at 0.1 trains.",)
        return optimizer_called(type(optimizer).__name__), float(optimizer.param_groups[0]["lr"]), ()


class _StepLoss:
    """The loss that training_step computes from scores and labels.

    Attributes:
        module: the LightningModule.
        name: name of the submodule with the replaced scores.
        batch: example batch; its labels are replaced.
    """

    def __init__(self, module: Any, core: nn.Module, batch: Any) -> None:
        self.module = copy.deepcopy(module)
        self.name = next(name for name, submodule in module.named_modules() if submodule is core)
        self.batch = batch

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        core = self.module.get_submodule(self.name)
        cast("Any", core).forward = lambda *_inputs, **_settings: scores
        return _loss_of(self.module.training_step(_with_labels(self.batch, labels), 0))


def _silent(module: Any) -> Any:
    """Disable a module's logging, since there is no Trainer to log to."""
    module.log = module.log_dict = _nothing
    return module


def _nothing(*_what: Any, **_more: Any) -> None:
    return None


def _loss_of(output: Any) -> Tensor:
    """Return the loss in the output of training_step.

    Raises:
        TypeError: the output contains no loss.
    """
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor):
        raise TypeError(f"it returns {type(output).__name__}, expected a loss")
    return loss


def _label_key(batch: Mapping[str, Any]) -> str:
    return next((key for key in LABEL_KEYS if key in batch), "")


def _labels_of(batch: Any) -> Tensor:
    return batch[_label_key(batch)] if isinstance(batch, Mapping) else batch[1]


def _with_labels(batch: Any, labels: Tensor) -> Any:
    """Return a batch with other labels; its inputs are repeats of the first example, used only for their shape."""
    known = _labels_of(batch)
    numbers = torch.zeros(len(labels), dtype=torch.long)
    if isinstance(batch, Mapping):
        like = {key: value[numbers] if isinstance(value, Tensor) else value for key, value in batch.items()}
        return {**like, _label_key(batch): labels.to(known.device)}
    return type(batch)((batch[0][numbers], labels.to(known.device)))


def _first_optimizer(configured: Any) -> Optimizer | None:
    """Return the first optimizer of any value that configure_optimizers may return."""
    if isinstance(configured, Optimizer):
        return configured
    parts = [configured.get("optimizer")] if isinstance(configured, Mapping) else configured
    if not isinstance(parts, list | tuple):
        return None
    return next(
        (optimizer for optimizer in map(_first_optimizer, cast("list[Any]", parts)) if optimizer is not None), None
    )
