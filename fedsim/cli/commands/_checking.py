"""Checks that decide a command's exit code: a scenario's expected figures, and the limits of a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fedsim.cli.commands._console import complain, say
from fedsim.core.errors import FedsimError

if TYPE_CHECKING:
    from fedsim.experiment.expectation import Expected, Figure
    from fedsim.judgement.limits import JudgedLimit
    from fedsim.judgement.policy import Policy


def expected_of(scenario: Path, overrides: Sequence[str]) -> Expected:
    """Return the expected figures of a scenario file for ``--check``, before anything runs.

    Raises:
        FedsimError: the scenario has overrides, or no expected figures.
    """
    from fedsim.experiment.expectation import expected_file, read_expected

    if overrides:
        raise FedsimError(
            "--check compares the unchanged scenario with its expected values: leave out --set and --seed."
        )
    expected = read_expected(scenario)
    if not expected.count:
        raise FedsimError(
            f"{scenario}: no file {expected_file(scenario)} to compare with. `fedsim expect FOLDER {scenario}` writes "
            "it from an earlier run."
        )
    return expected


def check_limits(policy: Policy, limits: Sequence[JudgedLimit]) -> None:
    """Print the limits of a policy that are broken or undecided, and exit with the policy's code unless it is 0."""
    from fedsim.report.limits import policy_outcome

    found = policy_outcome(policy, limits)
    for text in found.sentences:
        complain(text)
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def check_figures(
    measured: Sequence[Figure], hashes: Mapping[str, str], expected: Expected, *, is_silent: bool
) -> None:
    """Print figures that differ from the scenario's expected figures; exit with 1 if any does."""
    from fedsim.experiment.expectation import departures

    differences = departures(measured, hashes, expected)
    for sentence in differences:
        complain(f"Departs: {sentence}.")
    if not is_silent:
        say(f"Compared with its figures: {expected.count - len(differences)} of {expected.count} are as expected.")
    if differences:
        raise typer.Exit(1)
