"""`fedsim audit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsim.cli.commands._checking import check_limits
from fedsim.cli.commands._client_options import parse_knowledge, usable_memory
from fedsim.cli.commands._console import command, say, screen
from fedsim.core import targets
from fedsim.core.errors import FedsimError

if TYPE_CHECKING:
    from fedsim.audit import AuditRecord

_Target = Annotated[
    str,
    typer.Argument(
        help="package.module:name or folder/file.py:name of a function that returns (model, loss, "
        "loader), or of an object listed in docs/audit.md; or the folder or .fab file of a "
        "Flower app"
    ),
]
_ClientApp = Annotated[
    str | None, typer.Option(help="package.module:app, a Flower ClientApp: attack its reply to a single round")
]
_Gradients = Annotated[
    Path | None,
    typer.Option(help="attack captured gradients, .safetensors or .npz; --batch-sizes is their number of images"),
]
_Weights = Annotated[
    Path | None, typer.Option(help="weights of these gradients, .safetensors or .npz; absent: the function's")
]
_Updates = Annotated[
    int | None,
    typer.Option(min=1, help="attacked updates per batch size and defense; more updates give narrower intervals"),
]
_GroupBy = Annotated[
    str | None, typer.Option(help="compare the risk of groups: a key of the loader's mappings, or a table's column")
]


@command(epilog="Example: fedsim audit my_pkg.train:make_client --batch-sizes 1,4,16 --minutes 5")
def audit(
    target: _Target,
    batch_sizes: Annotated[str, typer.Option(help="batch sizes to attack")] = "1,4,16",
    minutes: Annotated[
        float, typer.Option(min=0.05, help="processor time of the audit, without the import of the target")
    ] = 5.0,
    out: Annotated[Path | None, typer.Option(help="folder of the audit; absent: results/audit-NAME")] = None,
    knows: Annotated[str | None, typer.Option(help="knowledge granted to the attacker, separated by commas")] = None,
    client_app: _ClientApp = None,
    gradients: _Gradients = None,
    weights: _Weights = None,
    defenses: Annotated[bool, typer.Option(help="try defenses; without them an audit may end early")] = True,
    updates: _Updates = None,
    policy: Annotated[Path, typer.Option(help="file with [tool.fedsim.policy]")] = Path("pyproject.toml"),
    junit: Annotated[Path | None, typer.Option(help="write the verdict on each threshold as JUnit XML")] = None,
    sarif: Annotated[Path | None, typer.Option(help="write broken and undecided thresholds as SARIF 2.1.0")] = None,
    memory: Annotated[float | None, typer.Option(min=0, help="GiB of address space for your code; 0: no limit")] = None,
    group_by: _GroupBy = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda: where the client trains and attacks search")] = "cpu",
) -> None:
    """Measure what an update of your own model leaks of a client's data, and the cost of defenses.

    Exit code 3: a threshold of the policy is broken. Exit code 4: a threshold is undecided.
    """
    _check_source(client_app, gradients, weights)
    batches = _sizes(batch_sizes)
    targets.find(target)

    from fedsim.audit import AuditPlan, exports, running
    from fedsim.audit.console import counting
    from fedsim.audit.limits import client_thresholds
    from fedsim.audit.record import KNOWS, command_of
    from fedsim.core.devices import device_of
    from fedsim.judgement.policy import policy_of
    from fedsim.record.atomic_files import write_atomic

    folder = out or Path("results") / f"audit-{Path(target.rpartition(':')[2]).resolve().stem}"
    plan = AuditPlan(
        target=target,
        batches=batches,
        minutes=minutes,
        seed=seed,
        device=device_of(device),
        defend=defenses,
        updates=updates,
        group_by=group_by,
        memory=usable_memory() if memory is None else memory,
        client_app=client_app,
        gradients=gradients,
        weights=weights,
        knows=KNOWS if knows is None else parse_knowledge(knows),
    )
    rules = policy_of(policy)
    plan = plan.model_copy(update={"command": command_of(plan, folder, policy, memory)})
    with counting(screen) as on_progress:
        record = running.run(plan, rules, folder, on_progress)
    _tell(record, folder)
    for path, make in ((junit, exports.junit), (sarif, exports.sarif)):
        if path is not None:
            write_atomic(path, make(record))
    check_limits(record.policy, client_thresholds(record))


def _check_source(client_app: str | None, gradients: Path | None, weights: Path | None) -> None:
    if weights is not None and gradients is None:
        raise FedsimError("--weights goes with --gradients: without them the function's own weights are audited.")
    if client_app is not None and gradients is not None:
        raise FedsimError("--client-app and --gradients exclude each other: choose a single source of the update.")


def _tell(record: AuditRecord, folder: Path) -> None:
    from fedsim.audit import verdict
    from fedsim.audit.console import show

    show(record, screen)
    say(f"Page: {folder / 'audit.html'} ({record.seconds:.0f} s)")
    say(verdict.answer(record).sentence)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise FedsimError(f"--batch-sizes is '{text}', expected numbers from 1, separated by commas, as in 1,4,16.")
    return tuple(sorted(set(sizes)))
