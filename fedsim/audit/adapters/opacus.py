"""Adapter of the result of Opacus `PrivacyEngine.make_private`: model, optimizer and loader."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterable
from typing import Any, ClassVar, cast, final

from torch.utils.data import DataLoader

from fedsim.audit.adapters import (
    SubjectAdapter,
    adapter,
    is_a,
    kinds_of,
    optimizer_called,
    parts_of,
    tensors_are,
    unwrapped,
)
from fedsim.audit.noise_check import REMEDY
from fedsim.audit.subject import Subject
from fedsim.core.errors import FedsimError

_DELTA = 1e-5  # default of dp-sgd, so that both epsilons have the same delta
_FLAT = {
    "DPOptimizer",
    "DPOptimizerFastGradientClipping",
    "DistributedDPOptimizer",
    "DistributedDPOptimizerFastGradientClipping",
    "FSDPOptimizerFastGradientClipping",
    "SecureDPOptimizer",
    "SecureFastGradientClipping",
}
_RETURN = "Return what make_private returned: (model, optimizer, loader)."


@final
@adapter
class OpacusTriple(SubjectAdapter):
    """Model, optimizer and loader of `make_private`, and optionally a loss; cross-entropy by default."""

    takes: ClassVar[str] = "(model, optimizer, loader) of make_private of Opacus"

    @classmethod
    def recognises(cls, thing: Any) -> bool:
        """Return whether a part belongs to Opacus."""
        return any(
            is_a(part, "AbstractGradSampleHooks", "opacus")
            or is_a(part, "DPOptimizer", "opacus")
            or is_a(part, "PrivacyEngine", "opacus")
            for part in parts_of(thing)
        )

    def subject(self) -> Subject:
        """Return the unwrapped model with `dp-sgd` at the optimizer's clipping norm and noise multiplier."""
        parts = parts_of(self.thing)
        wrapped = self._part("AbstractGradSampleHooks", "wrapped model", parts)
        optimizer = self._part("DPOptimizer", "DPOptimizer", parts)
        loader = next((part for part in parts if isinstance(part, DataLoader)), None)
        if loader is None:
            raise FedsimError(f"'{self.name}' gives no loader beside the model and optimizer of Opacus. {_RETURN}")
        others = [part for part in parts if not any(part is one for one in (wrapped, optimizer, loader))]
        strange = [part for part in others if not callable(part)]
        if strange:
            raise FedsimError(
                f"'{self.name}' gives {kinds_of(strange)} beside what make_private returned, expected at most the "
                "loss, a function of scores and labels."
            )
        self._check(optimizer, loader)
        self._batch = optimizer.expected_batch_size
        self._privacy = {"clip": float(optimizer.max_grad_norm), "noise_multiplier": float(optimizer.noise_multiplier)}
        model = unwrapped(wrapped)
        self._sent = sum(p.requires_grad for p in model.parameters())
        plain = DataLoader(loader.dataset, batch_size=self._batch, collate_fn=loader.collate_fn)
        return Subject(
            model,
            getattr(others[0], "criterion", others[0]) if others else None,
            plain,
            optimizer=optimizer_called(type(optimizer.original_optimizer).__name__),
            learning_rate=float(optimizer.param_groups[0]["lr"]),
            defenses=({"name": "dp-sgd", "delta": _DELTA, **self._privacy},),
            sampling="poisson",
            notes=(_claim(optimizer, len(loader)), *_weak_noise(optimizer)),
        )

    def understood(self) -> str:
        """Describe the client's mechanism."""
        return (
            f"Opacus, {tensors_are(self._sent)} sent; each example is clipped at {self._privacy['clip']:g}, noise "
            f"multiplier {self._privacy['noise_multiplier']:g}, Poisson sampling of {self._batch} examples a step "
            f"(--batch {self._batch} attacks such steps)"
        )

    def _part(self, kind: str, what: str, parts: Iterable[Any]) -> Any:
        known = next((part for part in parts if is_a(part, kind, "opacus")), None)
        if known is None:
            raise FedsimError(f"'{self.name}' gives {kinds_of(parts)}, but no {what} of Opacus. {_RETURN}")
        return known

    def _check(self, optimizer: Any, loader: DataLoader[Any]) -> None:
        kind = type(optimizer).__name__
        if kind not in _FLAT:
            raise FedsimError(
                f"'{self.name}' clips with {kind}, which has more than one bound. Call make_private with "
                "clipping='flat' to audit it."
            )
        if not is_a(loader, "DPDataLoader", "opacus"):
            raise FedsimError(
                f"'{self.name}' has a {type(loader).__name__} in place of the DPDataLoader, so batches are no Poisson "
                "samples and the epsilon of Opacus does not hold. Return the loader of make_private, called with "
                "poisson_sampling=True."
            )


def _weak_noise(optimizer: Any) -> tuple[str, ...]:
    """Return a warning that the noise is computable if it comes from torch's CPU generator."""
    is_cryptographic = optimizer.secure_mode or type(optimizer).__name__.startswith("Secure")
    if is_cryptographic or not optimizer.noise_multiplier or any(p.device.type != "cpu" for p in optimizer.params):
        return ()
    return (
        "Broken: the noise is computable. It comes from torch's generator on the CPU (MT19937), whose state follows "
        f"from the noise of one step that a server sees. {REMEDY}. `fedsim check-mechanism --noise` runs the recovery.",
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
    steps = f"the {taken} steps that were taken" if taken else f"one pass of {steps_a_pass} steps"
    name = f"Opacus ({accountant.mechanism()})"
    if not optimizer.noise_multiplier:
        return f"{name} claims no finite epsilon, since the noise multiplier is 0."
    with warnings.catch_warnings():  # warnings about RDP orders at the end of their range
        warnings.simplefilter("ignore")
        epsilon = float(accountant.get_epsilon(_DELTA))
    return f"{name} claims epsilon {epsilon:.3g} at delta {_DELTA:g} for {steps}."
