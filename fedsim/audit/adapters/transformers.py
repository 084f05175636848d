"""Adapter of a transformers `Trainer`: its model, collator, data and loss."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Mapping, Sized
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.audit.adapters import (
    SubjectAdapter,
    adapter,
    as_sequence,
    is_instance_by_name,
    optimizer_called,
    tensors_are,
    type_names,
    unwrap_model,
)
from fedsim.audit.adapters._opacus_noise import dp_sgd_table, noise_of, secure_note
from fedsim.audit.adapters._replaying import check_same
from fedsim.audit.copying import scores_in
from fedsim.audit.foreign import reason
from fedsim.audit.subject import Subject
from fedsim.core.errors import FedsimError
from fedsim.core.nets.losses import IGNORED
from fedsim.core.types import Loss

_SHUFFLED = "The Trainer shuffles the data, so batches are no Poisson samples and an epsilon of Opacus does not hold."
_TOKENS = 2  # dimensions of per-token labels


@final
@adapter
class TrainerClient(SubjectAdapter):
    """The model and data of a `Trainer`; the client sends a plain gradient step of the same loss."""

    input_description: ClassVar[str] = "a Trainer of transformers"

    @classmethod
    def matches(cls, client: Any) -> bool:
        """Return whether a part is a Trainer or its TrainingArguments."""
        return any(
            is_instance_by_name(part, kind, "transformers")
            for part in as_sequence(client)
            for kind in ("Trainer", "TrainingArguments")
        )

    def subject(self) -> Subject:
        """Return a copy of the model in training mode, with the trainer's loaders and loss."""
        parts = as_sequence(self.client)
        trainer = next((part for part in parts if is_instance_by_name(part, "Trainer", "transformers")), None)
        if trainer is None:
            raise FedsimError(f"'{self.name}' gives the arguments of a Trainer alone. Return the Trainer itself.")
        if len(parts) > 1:
            raise FedsimError(
                f"'{self.name}' gives {type_names(parts)}, expected only a Trainer with its own data and loss."
            )
        self._trainer: Any = trainer
        self._check()
        private = _dp_optimizer(trainer)
        is_wrapped = is_instance_by_name(trainer.model, "AbstractGradSampleHooks", "opacus")
        model: Any = unwrap_model(trainer.model) if is_wrapped else copy.deepcopy(trainer.model)
        model = model.cpu()
        if getattr(model, "is_activation_checkpointing", False):
            model.gradient_checkpointing_disable()  # checkpointing stores nothing for second derivatives
        self._model: nn.Module = model.train()
        train = trainer.get_train_dataloader()
        test = trainer.get_eval_dataloader() if is_one_set(trainer.eval_dataset) else None
        subject = Subject(
            self._model,
            self._loss(self._first(train)),
            train,
            test,
            optimizer=optimizer_called(str(trainer.args.optim)),
            learning_rate=trainer.args.learning_rate,
            tokenizer=trainer.processing_class if hasattr(trainer.processing_class, "decode") else None,
            notes=self._notes(),
        )
        return (
            subject
            if private is None
            else _with_noise(subject, private, is_instance_by_name(train, "DPDataLoader", "opacus"))
        )

    def input_summary(self) -> str:
        """Describe the trained model and its loss."""
        args, sent = self._trainer.args, sum(p.requires_grad for p in self._model.parameters())
        batch = args.train_batch_size * args.gradient_accumulation_steps
        return (
            f"transformers Trainer of {type(self._model).__name__}, {tensors_are(sent)} sent "
            f"after a single step; loss: {self._what}; it uses {batch} examples per step "
            f"(--batch-sizes {batch} attacks such steps)"
        )

    def _check(self) -> None:
        config: Any = getattr(self._trainer.model, "config", None)
        data = self._trainer.train_dataset
        if data is None:
            raise FedsimError(f"the Trainer '{self.name}' has no train_dataset. Give it the client's data.")
        if isinstance(data, Sized) and not len(data):
            raise FedsimError(f"the train_dataset of the Trainer '{self.name}' is empty. Give it the client's data.")
        if getattr(config, "is_encoder_decoder", False):
            raise FedsimError(
                f"the Trainer '{self.name}' trains an encoder-decoder model. The audit supports "
                "classifiers and causal language models."
            )

    def _first(self, train: Iterable[Any]) -> Mapping[str, Any]:
        """Return the first batch.

        Raises:
            FedsimError: the collator fails on the data, or returns no labels.
        """
        try:
            batch = next(iter(train))
        except Exception as error:
            raise FedsimError(
                f"the data of the Trainer '{self.name}' cannot be put into batches: "
                f"{reason(error)}. Its train_dataset must hold mappings that its data_collator "
                "accepts."
            ) from error
        if isinstance(batch, Mapping) and "labels" in batch and len(batch) > 1:
            return cast("Mapping[str, Any]", batch)
        given = ", ".join(map(str, cast("Any", batch))) if isinstance(batch, Mapping) else type(batch).__name__
        raise FedsimError(
            f"batches of the Trainer '{self.name}' hold {given or 'nothing'}, expected inputs and labels. Name "
            "the labels' column 'label' or 'labels'; columns that the model's forward does not name are removed."
        )

    def _loss(self, batch: Mapping[str, Any]) -> Loss | None:
        """Return the loss of scores and labels, checked on a batch; None is cross-entropy."""
        trainer = self._trainer
        is_plain = type(trainer).compute_loss.__module__.startswith("transformers.")
        smoothing = trainer.args.label_smoothing_factor
        self._what = "cross-entropy" if is_plain else f"that of {type(trainer).__name__}.compute_loss"
        if is_plain and trainer.compute_loss_func is not None:
            self._what = "its compute_loss_func"
        elif is_plain and batch["labels"].is_floating_point():
            return self._loss_of_numbers(batch)
        elif is_plain and not smoothing:
            return None
        elif is_plain:
            self._what = f"cross-entropy with label smoothing of {smoothing:g}"
            return partial(_smoothed_cross_entropy, smoothing)
        return self._check_loss(partial(_as_the_trainer, trainer), batch)

    def _loss_of_numbers(self, batch: Mapping[str, Any]) -> Loss:
        """Return the loss of transformers models for non-class labels: squared error, or BCE for sets of 0 and 1."""
        labels = batch["labels"]
        are_sets = labels.ndim > 1 and bool(((labels == 0) | (labels == 1)).all())
        self._what = "binary cross-entropy" if are_sets else "squared error"
        return self._check_loss(F.binary_cross_entropy_with_logits if are_sets else _squared_error, batch)

    def _check_loss(self, loss: Loss, batch: Mapping[str, Any]) -> Loss:
        """Return a loss of scores and labels after checking on a batch that it equals the trainer's."""
        labels, model = batch["labels"], copy.deepcopy(self._trainer.model).eval()
        with torch.no_grad():
            scores = scores_in(model(**{key: value for key, value in batch.items() if key != "labels"}))
        if labels.ndim == _TOKENS and not labels.is_floating_point():
            scores, labels = scores[:, :-1], labels[:, 1:]
        whole = partial(self._trainer.compute_loss, model, dict(batch))
        check_same(loss, scores.cpu(), labels.cpu(), whole, f"the Trainer '{self.name}'")
        return loss

    def _notes(self) -> tuple[str, ...]:
        if not hasattr(self._model, "lm_head"):
            return ()
        return ("Texts of a batch have equal weight, whatever their length; a Trainer weights tokens equally.",)


def _dp_optimizer(trainer: Any) -> Any:
    """Return the trainer's optimizer of Opacus, also inside the wrapper of accelerate; None if there is none."""
    optimizer = trainer.optimizer
    if is_instance_by_name(optimizer, "AcceleratedOptimizer", "accelerate"):
        optimizer = optimizer.optimizer
    return optimizer if is_instance_by_name(optimizer, "DPOptimizer", "opacus") else None


def _with_noise(subject: Subject, optimizer: Any, is_poisson: bool) -> Subject:
    """Return the subject of a trainer that steps with an optimizer of Opacus: its clip, noise and sampling."""
    shuffled = () if is_poisson else (_SHUFFLED,)
    return replace(
        subject,
        optimizer=optimizer_called(type(optimizer.original_optimizer).__name__),
        learning_rate=float(optimizer.param_groups[0]["lr"]),
        defenses=(dp_sgd_table(optimizer.max_grad_norm, optimizer.noise_multiplier),),
        sampling="poisson" if is_poisson else subject.sampling,
        notes=(*subject.notes, *shuffled, *secure_note(optimizer)),
        noise=noise_of(optimizer),
    )


def is_one_set(dataset: Any) -> bool:
    """Return whether a trainer has a single evaluation set, not none or several by name."""
    return dataset is not None and not isinstance(dataset, Mapping)


def _smoothed_cross_entropy(smoothing: float, scores: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(scores.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, label_smoothing=smoothing)


def _squared_error(scores: Tensor, labels: Tensor) -> Tensor:
    return F.mse_loss(scores.view(labels.shape), labels)


class _Scored(nn.Module):
    """Replacement of the trainer's model that returns given scores."""

    def __init__(self, scores: Tensor, config: Any) -> None:
        super().__init__()
        self.scores, self.config = scores, config

    def forward(self, **_inputs: Any) -> Any:
        """Return the scores as a transformers model output."""
        outputs = cast("Any", sys.modules["transformers.utils"]).ModelOutput
        return outputs(logits=self.scores)


def _as_the_trainer(trainer: Any, scores: Tensor, labels: Tensor) -> Tensor:
    """Return the trainer's own loss of scores and labels, with next-token labels shifted back.

    The trainer shifts labels itself, so labels that are already shifted must be moved back.
    """
    if labels.ndim == _TOKENS and not labels.is_floating_point():
        scores = torch.cat([scores, scores[:, -1:].detach()], 1)
        labels = torch.cat([torch.full_like(labels[:, :1], IGNORED), labels], 1)
    model = _Scored(scores, getattr(trainer.model, "config", None))
    if trainer.compute_loss_func is not None:
        return trainer.compute_loss_func(model(), labels, num_items_in_batch=None)
    return trainer.compute_loss(model, {"labels": labels})
