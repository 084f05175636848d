"""Adapter of the result of Opacus `PrivacyEngine.make_private`: model, optimizer and loader."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, cast, final

from torch.utils.data import DataLoader

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
from fedsim.audit.adapters._opacus_noise import DELTA, dp_sgd_table, noise_of, secure_note
from fedsim.audit.subject import Subject
from fedsim.core.errors import FedsimError

_FLAT = {
    "DPOptimizer",
    "DPOptimizerFastGradientClipping",
    "DistributedDPOptimizer",
    "DistributedDPOptimizerFastGradientClipping",
    "FSDPOptimizerFastGradientClipping",
}
_RETURN = (
    "Return the result of make_private: (model, optimizer, loader). Without the optimizer, "
    "name clip and noise: fedsim.audit.Subject(model, loss, loader, defenses=({'name': "
    "'dp-sgd', 'clip': 1.0, 'noise_multiplier': 1.0},))."
)


@final
@adapter
class OpacusTriple(SubjectAdapter):
    """Model, optimizer and loader of `make_private`; the loss is cross-entropy unless the tuple contains it.

    Without the optimizer, clip and noise multiplier are those of the `dp-sgd` in `Subject.defenses`, or the attributes
    `max_grad_norm` and `noise_multiplier` of the model.
    """

    input_description: ClassVar[str] = "(model, optimizer, loader) of make_private of Opacus"

    @classmethod
    def matches(cls, client: Any) -> bool:
        """Return whether a part is from Opacus."""
        return any(
            is_instance_by_name(part, "AbstractGradSampleHooks", "opacus")
            or is_instance_by_name(part, "DPOptimizer", "opacus")
            or is_instance_by_name(part, "PrivacyEngine", "opacus")
            for part in _parts(client)
        )

    def subject(self) -> Subject:
        """Return the unwrapped model with `dp-sgd` at the clip and noise of the mechanism."""
        parts = _parts(self.client)
        wrapped = next((part for part in parts if is_instance_by_name(part, "AbstractGradSampleHooks", "opacus")), None)
        if wrapped is None:
            raise FedsimError(f"'{self.name}' gives {type_names(parts)}, but no wrapped model of Opacus. {_RETURN}")
        optimizer = _optimizer_in(parts)
        loader = next((part for part in parts if isinstance(part, DataLoader)), None)
        if loader is None:
            raise FedsimError(f"'{self.name}' returns no loader with the model and optimizer of Opacus. {_RETURN}")
        self._check(optimizer, loader)
        if optimizer is None:
            stated = self._find_dp_sgd_settings(wrapped, parts)
            self._batch = len(cast("Any", loader.dataset)) // len(loader)
        else:
            stated = dp_sgd_table(optimizer.max_grad_norm, optimizer.noise_multiplier)
            self._batch = optimizer.expected_batch_size
        self._mechanism = ", ".join(
            f"{key.replace('_', ' ')} {value:g}" for key, value in stated.items() if isinstance(value, int | float)
        )
        model = unwrap_model(wrapped)
        self._sent = sum(p.requires_grad for p in model.parameters())
        given = self.client if isinstance(self.client, Subject) else Subject(model)
        subject = replace(
            given,
            model=model,
            loss=self._loss(part for part in parts if not any(part is known for known in (wrapped, optimizer, loader))),
            loader=DataLoader(loader.dataset, batch_size=self._batch, collate_fn=loader.collate_fn),
            defenses=(*(table for table in given.defenses if table.get("name") != "dp-sgd"), stated),
            sampling="poisson",
        )
        if optimizer is None:
            return replace(subject, notes=(*subject.notes, _missing_optimizer_note(subject)))
        return replace(
            subject,
            optimizer=optimizer_called(type(optimizer.original_optimizer).__name__),
            learning_rate=float(optimizer.param_groups[0]["lr"]),
            notes=(*subject.notes, _claim(optimizer, len(loader)), *secure_note(optimizer)),
            noise=noise_of(optimizer),
        )

    def input_summary(self) -> str:
        """Return the mechanism of the client in words."""
        return (
            f"Opacus, {tensors_are(self._sent)} sent; each step is dp-sgd with {self._mechanism} and Poisson sampling "
            f"of {self._batch} examples (--batch-sizes {self._batch} attacks such steps)"
        )

    def _loss(self, arguments: Iterable[Any]) -> Any:
        """Return the loss among the remaining parts, without Opacus's wrapper; None for cross-entropy."""
        given = [part for part in arguments if part is not None]
        strange = [part for part in given if not callable(part)]
        if strange:
            raise FedsimError(
                f"'{self.name}' returns {type_names(strange)} in addition to the result of "
                "make_private, expected at most the loss, a function of scores and labels."
            )
        return getattr(given[0], "criterion", given[0]) if given else None

    def _find_dp_sgd_settings(self, wrapped: Any, parts: Iterable[Any]) -> Mapping[str, Any]:
        """Return the table of `dp-sgd` that the user named, or that of the model's clip and noise multiplier."""
        tables = self.client.defenses if isinstance(self.client, Subject) else ()
        named = next((table for table in tables if table.get("name") == "dp-sgd"), None)
        if named is not None:
            return named
        clip, noise = (getattr(wrapped, name, None) for name in ("max_grad_norm", "noise_multiplier"))
        if clip is None or noise is None:
            raise FedsimError(
                f"'{self.name}' gives {type_names(parts)}, but no DPOptimizer of Opacus, so clip and noise are "
                f"unknown. {_RETURN}"
            )
        return dp_sgd_table(clip, noise)

    def _check(self, optimizer: Any, loader: DataLoader[Any]) -> None:
        if optimizer is not None:
            self._check_bound(optimizer)
        if not is_instance_by_name(loader, "DPDataLoader", "opacus"):
            raise FedsimError(
                f"'{self.name}' has a {type(loader).__name__} in place of the DPDataLoader, so batches are no Poisson "
                "samples and the epsilon of Opacus does not hold. Return the loader of make_private, called with "
                "poisson_sampling=True."
            )

    def _check_bound(self, optimizer: Any) -> None:
        from fedsim.privacy.secure_optimizer import opacus_class  # noqa: PLC0415 - imports Opacus

        kind = opacus_class(optimizer)
        if kind.__module__.partition(".")[0] != "opacus" or kind.__name__ not in _FLAT:
            raise FedsimError(
                f"'{self.name}' clips with {kind.__name__}, expected a single bound. Call make_private "
                "with clipping='flat' to audit it."
            )


def _parts(client: Any) -> tuple[Any, ...]:
    return (client.model, client.loss, client.loader) if isinstance(client, Subject) else as_sequence(client)


def _optimizer_in(parts: Iterable[Any]) -> Any:
    """Return the DPOptimizer of a tuple, or of its loss in ghost clipping; None if there is none."""
    for part in parts:
        if is_instance_by_name(part, "DPOptimizer", "opacus"):
            return part
        if is_instance_by_name(part, "DPLossFastGradientClipping", "opacus"):
            return part.optimizer
    return None


def _missing_optimizer_note(subject: Subject) -> str:
    return (
        "The optimizer of make_private was not given, so the audit simulates "
        f"{subject.optimizer} with learning rate {subject.learning_rate:g}, no accountant of Opacus claims an epsilon, "
        "and it is not known whether the generator of the noise is cryptographic."
    )


def _claim(optimizer: Any, steps_a_pass: int) -> str:
    """Return the epsilon claimed by the Opacus accountant, reachable only through the optimizer's step hook."""
    known = inspect.getclosurevars(optimizer.step_hook).nonlocals if optimizer.step_hook else {}
    accountant, rate = known.get("self"), known.get("sample_rate")
    if accountant is None or rate is None:
        return "No accountant of Opacus is attached to the optimizer, so it claims no epsilon."
    accountant = copy.deepcopy(accountant)
    taken = sum(int(steps) for *_, steps in cast("list[tuple[float, float, int]]", accountant.history))
    for _ in range(0 if taken else steps_a_pass):
        accountant.step(noise_multiplier=optimizer.noise_multiplier, sample_rate=rate)
    steps = f"the {taken} steps of the training" if taken else f"one pass of {steps_a_pass} steps"
    name = f"Opacus ({accountant.mechanism()})"
    if not optimizer.noise_multiplier:
        return f"{name} claims no finite epsilon, since the noise multiplier is 0."
    with warnings.catch_warnings():  # warnings about RDP orders at the end of their range
        warnings.simplefilter("ignore")
        epsilon = float(accountant.get_epsilon(DELTA))
    return f"{name} claims epsilon {epsilon:.3g} at delta {DELTA:g} for {steps}."
