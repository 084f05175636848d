"""Checks that decide a command's exit code: a scenario's table [expected], and the limits of a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fedsim.cli.commands._console import complain, say
from fedsim.core.errors import FedsimError

if TYPE_CHECKING:
    from fedsim.experiment.expectation import Figure
    from fedsim.judgement.limits import JudgedLimit
    from fedsim.judgement.policy import Policy
    from fedsim.scenario import Scenario


def refuse_check(scenario: Scenario, path: Path, overrides: Sequence[str]) -> None:
    """Refuse, before anything runs, a check without figures, or of a changed scenario.

    Raises:
        FedsimError: the scenario has overrides, or its table [expected] is empty.
    """
    if overrides:
        raise FedsimError(
            "--check compares the unchanged scenario with its expected values: leave out --set and --seed."
        )
    if not scenario.expected.figures and not scenario.expected.model_hash:
        raise FedsimError(
            f"{path}: no table [expected] to compare with. `fedsim expect FOLDER` prints the "
            "table [expected] of an earlier run."
        )


def check_limits(policy: Policy, limits: Sequence[JudgedLimit]) -> None:
    """Print the limits of a policy that are broken or undecided, and exit with the policy's code unless it is 0."""
    from fedsim.report.limits import policy_outcome

    found = policy_outcome(policy, limits)
    for text in found.sentences:
        complain(text)
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def check_figures(
    measured: Sequence[Figure], hashes: Mapping[str, str], scenario: Scenario, *, is_silent: bool
) -> None:
    """Print figures that differ from the scenario's expected figures; exit with 1 if any does."""
    from fedsim.experiment.expectation import departures

    differences = departures(measured, hashes, scenario.expected)
    for sentence in differences:
        complain(f"Departs: {sentence}.")
    compared = len(scenario.expected.figures) + len(scenario.expected.model_hash)
    if not is_silent:
        say(f"Compared with [expected]: {compared - len(differences)} of {compared} are as expected.")
    if differences:
        raise typer.Exit(1)
