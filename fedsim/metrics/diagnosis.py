"""Explanations of poor reconstructions, from the attack's report and from the ground truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_MATCHED = 1e-4
_FAR = 10.0
_UNEXPLAINED = 1e-3
_ILL_CONDITIONED = 1e4


def diagnosis(
    *,
    objective: float,
    at_truth: float | None,
    diagnostics: Mapping[str, float],
    batch_size: int,
    wrong_labels: int,
) -> tuple[str, ...]:
    """Return sentences that explain a poor reconstruction; empty without an explanation.

    Args:
        objective: the attack's objective at its guess.
        at_truth: 1 - cosine of the gradient at the true batch and masks; None if undefined.
        diagnostics: values reported by the attack, by name.
        batch_size: number of true examples.
        wrong_labels: number of guessed labels that are not in the batch.
    """
    return (
        *_diagnose_objective(objective, at_truth),
        *_diagnose_values(diagnostics, batch_size),
        *([f"{wrong_labels} of {batch_size} labels are wrong"] if wrong_labels else []),
    )


def _diagnose_objective(objective: float, at_truth: float | None) -> Iterator[str]:
    if at_truth is None:
        return
    if at_truth > _UNEXPLAINED:
        yield (
            f"even the true batch leaves an objective of {at_truth:.1e}: the update was changed "
            "in transit, or is not the gradient that the attack assumes"
        )
    elif objective > max(_MATCHED, _FAR * at_truth):
        yield f"the search did not arrive: objective {objective:.1e} at the guess, {at_truth:.1e} at the truth"
    else:
        yield f"the guess explains the gradient as well as the truth ({objective:.1e}): so do others"


def _diagnose_values(diagnostics: Mapping[str, float], batch_size: int) -> Iterator[str]:
    starts, arrived = diagnostics.get("starts", 1), diagnostics.get("starts that reached the lowest objective", 1)
    if starts > 1:
        yield f"{arrived:g} of {starts:g} starts reached the lowest objective"
    rank = diagnostics.get("numerical rank")
    if rank is not None and rank < batch_size:
        yield f"numerical rank {rank:g} of the first gradient is below the batch size {batch_size}"
    condition = diagnostics.get("condition number", 1.0)
    if condition > _ILL_CONDITIONED:
        yield f"the equations are ill-conditioned: condition number {condition:.1e}"
