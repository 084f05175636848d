"""`fedsim release`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsim.cli.commands._checking import check_limits
from fedsim.cli.commands._console import command, say, screen
from fedsim.core import targets
from fedsim.core.errors import FedsimError

if TYPE_CHECKING:
    from fedsim.release.record import ReleaseRecord

_Target = Annotated[
    str,
    typer.Argument(
        help="package.module:name or folder/file.py:name of a function that returns (model, loss, "
        "loader) or an object listed in docs/audit.md; the loader yields members"
    ),
]
_Weights = Annotated[Path, typer.Argument(help="weights of the finished model: .safetensors, .npz, .pt or .pth")]
_Members = Annotated[str | None, typer.Option(help="function that returns a loader of members; absent: the target's")]
_NonMembers = Annotated[
    str | None,
    typer.Option(
        help=("function that returns a loader of non-members: examples of the same kind that were not trained on")
    ),
]
_Reference = Annotated[
    Path | None, typer.Option(help="weights of the same model, trained without the members, for stronger attacks")
]
_Sites = Annotated[str | None, typer.Option(help="each site's own model and examples: a=my_pkg:site_a,b=my_pkg:site_b")]
_Secrets = Annotated[
    str | None, typer.Option(help="function that returns planted secrets: (beginning, secret, form, repetitions)")
]


@command(epilog="Example: fedsim release my_pkg.train:make_client model.safetensors --non-members my_pkg.train:others")
def release(
    target: _Target,
    weights: _Weights,
    members: _Members = None,
    non_members: _NonMembers = None,
    reference: _Reference = None,
    sites: _Sites = None,
    secrets: _Secrets = None,
    out: Annotated[Path | None, typer.Option(help="folder of the document; absent: results/release-NAME")] = None,
    policy: Annotated[Path, typer.Option(help="file with [tool.fedsim.policy]")] = Path("pyproject.toml"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Attack a finished federated model before its release, and write a document for the approvers.

    Exit code 3: a threshold of the policy is broken. Exit code 4: a threshold is undecided.
    """
    by_name = _sites(sites)
    for named in filter(None, (target, members, non_members, secrets, *by_name.values())):
        targets.find(named)

    from fedsim.judgement.policy import policy_of
    from fedsim.release import checking, verdict
    from fedsim.release.record import ReleasePlan

    folder = out or Path("results") / f"release-{weights.stem}"
    plan = ReleasePlan(
        target=target,
        weights=weights,
        members=members,
        non_members=non_members,
        reference=reference,
        sites=by_name,
        secrets=secrets,
        seed=seed,
        command=shlex.join(["fedsim", *sys.argv[1:]]),
    )
    record = checking.run(plan, policy_of(policy), folder)
    _show(record)
    say(f"Document: {folder / checking.PAGE}")
    check_limits(record.policy, verdict.thresholds(record))


def _show(record: ReleaseRecord) -> None:
    from fedsim.release import page, verdict
    from fedsim.report.document.terminal import to_terminal

    to_terminal([page.results(record)], screen)
    say(verdict.answer(record).sentence)


def _sites(text: str | None) -> dict[str, str]:
    """Return the function of each site by its name.

    Raises:
        FedsimError: a part is not of the form name=function, or a name occurs twice.
    """
    pairs = [part.strip().partition("=") for part in (text or "").split(",") if part.strip()]
    by_name = {name: target for name, _, target in pairs}
    if len(by_name) < len(pairs) or not all(name and target for name, target in by_name.items()):
        raise FedsimError(f"--sites is '{text}', expected names and functions, as in a=my_pkg:site_a,b=my_pkg:site_b.")
    return by_name
