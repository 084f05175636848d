"""`fedsim check-mechanism`."""

from __future__ import annotations

from typing import Annotated

import typer

from fedsim.cli.commands._console import command, complain, say

_Target = Annotated[
    str,
    typer.Argument(
        help="package.module:function or folder/file.py:function; it returns (step, (inputs, labels), noise "
        "multiplier) and, for Poisson sampling, (sizes of batches, number of records, rate)"
    ),
]


_Noise = Annotated[
    bool,
    typer.Option(
        "--noise",
        help="check the generator of the noise: the function runs a single step as deployed, and "
        "returns the sent tensors by name in the order of the draws, or these tensors and the standard deviation of "
        "the noise, which finds the state of NumPy's legacy generator too",
    ),
]


@command("check-mechanism", epilog="Example: fedsim check-mechanism my_pkg/private.py:step")
def check_mechanism(target: _Target, noise: _Noise = False) -> None:
    """Compare the outputs of a private step on neighbouring batches, with the same randomness; test batch sizes."""
    if noise:
        _check_noise(target)
        return
    from fedsim.audit.private_steps import check_target

    outcome = check_target(target)
    tried = f"{outcome.neighbours} pairs of neighbouring batches were tried"
    if not outcome.faults:
        say(
            f"No fault found: {tried}; a record shifts the output by at most "
            f"{outcome.distance:.3g} noise standard deviations (stated: {outcome.max_distance:.3g}). "
            "Other pairs are untested."
        )
        return
    complain(f"The step does not keep its noise multiplier: {tried}.")
    for fault in outcome.faults:
        complain(f"- {fault}.")
    raise typer.Exit(1)


def _check_noise(target: str) -> None:
    from fedsim.audit.noise_check import REMEDY, check_noise
    from fedsim.privacy.noise_recovery.result import ComputedNoise

    outcome = check_noise(target)
    if isinstance(outcome, ComputedNoise):
        complain(f"Broken: {outcome}. {REMEDY}.")
        raise typer.Exit(1)
    say(f"Not broken: {outcome}. Other generators and longer searches were not tried.")
