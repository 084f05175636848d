"""A finished model with its weights, members and non-members, loaded from user targets and validated."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fedsim.audit.captured import model_holding, read_tensors
from fedsim.audit.loading import call_factory, load, load_subject
from fedsim.audit.subject import MOST_EXAMPLES, CheckedSubject, Subject, check_subject
from fedsim.core.errors import FedsimError
from fedsim.core.examples import keys
from fedsim.core.nets.tensor_files import read_saved
from fedsim.core.types import Batch, Tensors
from fedsim.release.record import ReleasePlan

FEWEST = 20  # members, and others: with fewer every interval is too wide to say anything
_NAMED, _SAVED = (".safetensors", ".npz"), (".pt", ".pth", ".bin")


@dataclass(frozen=True)
class ReleaseCandidate:
    """A model to be released.

    Attributes:
        subject: its model holds the weights; its training set are the members, its test set the non-members, without
            duplicates.
        reference: weights of the same model, trained without the members; None if not given.
        notes: warnings for the reader, as sentences.
    """

    subject: CheckedSubject
    reference: Tensors | None
    notes: tuple[str, ...]

    @property
    def members(self) -> Batch:
        """Examples that the model was trained on."""
        return self.subject.dataset.train

    @property
    def non_members(self) -> Batch:
        """Examples that it was not trained on."""
        return self.subject.dataset.test


def read(plan: ReleasePlan) -> ReleaseCandidate:
    """Return the model that a plan names.

    Raises:
        FedsimError: weights do not fit, examples are missing, too few, or on both sides; the message says which.
    """
    subject = load_subject(load(plan.target), plan.target)
    loader = _loader_of(plan.members) if plan.members else subject.loader
    non_members = _loader_of(plan.non_members) if plan.non_members else subject.test
    if loader is None:
        raise FedsimError(
            f"'{plan.target}' returned no loader of members: return a loader, or pass --members package.module:name."
        )
    if non_members is None:
        raise FedsimError(
            f"'{plan.target}' gives no examples that the model was not trained on: give --non-members "
            "package.module:name, a function that returns a loader of them, or Subject(test=...)."
        )
    known = check_subject(replace(subject, loader=loader, test=non_members, defenses=()), plan.target)
    sides = {"members": known.dataset.train, "others": known.dataset.test}
    notes = [f"Only the first {MOST_EXAMPLES} {name} were read." for name in sides if len(sides[name]) == MOST_EXAMPLES]
    sides = {name: each_once(batch) for name, batch in sides.items()}
    check_sides(sides)
    known = replace(
        known,
        model=model_holding(known, read_weights(plan.weights), plan.weights),
        dataset=replace(known.dataset, train=sides["members"], test=sides["others"]),
    )
    _check_losses(known, plan.weights)
    reference = plan.reference and model_holding(known, read_weights(plan.reference), plan.reference).state_dict()
    return ReleaseCandidate(known, reference or None, (*known.notes, *notes))


@torch.no_grad()
def _check_losses(subject: CheckedSubject, weights: Path) -> None:
    """Check that the loss of a first batch of members and of non-members is not NaN.

    Raises:
        FedsimError: the loss is NaN for an example.
    """
    task, model = subject.task, subject.new_model().eval()
    for batch in (subject.dataset.train, subject.dataset.test):
        losses = task.losses(*task.answer(model, batch.select(torch.arange(min(len(batch), task.eval_batch_size))), {}))
        if bool(losses.isnan().any()):
            count = int(losses.isnan().sum())
            raise FedsimError(
                f"with the weights of {weights} the model's loss is NaN for {count} of {len(losses)} examples, "
                "so no attack on it can be judged. Give weights of a training that converged."
            )


def read_weights(path: Path) -> Tensors:
    """Return the tensors of a file by name, without running code from it.

    Raises:
        FedsimError: the file does not exist, or holds something else.
    """
    if not path.is_file():
        raise FedsimError(f"no file {path}.")
    if path.suffix in _NAMED:
        return read_tensors(path)
    if path.suffix not in _SAVED:
        raise FedsimError(f"{path} ends in '{path.suffix}', expected {', '.join((*_NAMED, *_SAVED))}.")
    saved = read_saved(path)
    if not isinstance(saved, Mapping) or not all(isinstance(value, Tensor) for value in cast("Any", saved).values()):
        raise FedsimError(
            f"{path} holds {type(saved).__name__}, expected tensors by name. Write it with "
            "torch.save(model.state_dict(), path)."
        )
    return dict(cast("Mapping[str, Tensor]", saved))


def each_once(batch: Batch) -> Batch:
    """Return the batch without duplicate examples."""
    places = {key: place for place, key in reversed(list(enumerate(keys(batch))))}
    return batch.select(torch.tensor(sorted(places.values())))


def check_sides(sides: Mapping[str, Batch]) -> None:
    """Check that each side has enough examples, and that no example is on two sides.

    Raises:
        FedsimError: it is not so.
    """
    for name, batch in sides.items():
        if len(batch) < FEWEST:
            raise FedsimError(f"found {len(batch)} different {name}, expected at least {FEWEST} of each side.")
    known = {name: set(keys(batch)) for name, batch in sides.items()}
    for first, second in combinations(known, 2):
        if shared := len(known[first] & known[second]):
            raise FedsimError(
                f"{shared} examples are among the {first} and among the {second}, expected none: "
                "members and non-members would overlap. Remove them on either side."
            )


def hashes(plan: ReleasePlan) -> dict[str, str]:
    """Return the SHA-256 of each file of weights, and of each module that the plan names, by file name."""
    targets = [plan.target, plan.members, plan.non_members, plan.secrets, *plan.sites.values()]
    modules = [sys.modules.get(getattr(load(target), "__module__", "")) for target in targets if target]
    code = [Path(module.__file__) for module in modules if module is not None and module.__file__]
    files = [plan.weights, *filter(None, [plan.reference]), *code]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _loader_of(target: str) -> Iterable[Any]:
    """Return the loader that a function returns, alone or as a part of an audit subject."""
    loader = load(target)
    loader = call_factory(loader, target) if callable(loader) else loader
    if isinstance(loader, Subject) or (isinstance(loader, tuple) and len(cast("tuple[Any, ...]", loader)) == 3):  # noqa: PLR2004 - as audits take it
        loader = load_subject(loader, target).loader
    if not isinstance(loader, Iterable):
        raise FedsimError(f"'{target}' returned {type(loader).__name__}, expected a loader of examples.")
    return cast("Iterable[Any]", loader)
