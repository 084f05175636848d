"""Audit of a client from Python, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedsim.audit import auditing, running
from fedsim.audit.loading import load, load_subject
from fedsim.audit.record import KNOWS, AuditPlan, AuditRecord
from fedsim.core.devices import find_device
from fedsim.core.result_files import AUDIT
from fedsim.core.settings import DeviceName
from fedsim.core.time_budget import TimeBudget
from fedsim.core.types import Knowledge
from fedsim.judgement.policy import Policy
from fedsim.record.store import RunFolder


def audit_client(
    client: Any,
    *,
    batches: Sequence[int] = (1, 4, 16),
    minutes: float = 5.0,
    out: Path | None = None,
    policy: Policy | None = None,
    knows: Sequence[Knowledge] = KNOWS,
    seed: int = 0,
    device: DeviceName = "cpu",
    updates: int | None = None,
    defend: bool = True,
) -> AuditRecord:
    """Audit a client in this process, without a memory limit; the time limit acts between two operations.

    Args:
        client: a function that returns (model, loss, loader) or a `Subject`, one of these directly, or another object
            that `docs/audit.md` lists; a string is an import target, as on the command line.
        batches: batch sizes to attack.
        minutes: processor time of the audit, without the import of the client's module.
        out: folder for record, pictures, page and tables; by default no file is kept.
        policy: thresholds; see `verdict.broken`.
        knows: knowledge granted to the attacker; see `fedsim.core.types.Knowledge`.
        seed: seed of all random draws.
        device: device for training and for attacks.
        updates: number of attacked updates per batch size and defense; by default enough for a few images.
        defend: whether defenses are evaluated.

    Raises:
        FedsimError: the client has an unsupported type, a user function raises, nothing can be audited, or the device
            is missing.
    """
    find_device(device)
    client_object = load(client) if isinstance(client, str) else client
    clock = TimeBudget.with_wall_limit(60.0 * minutes)
    name = str(client) if isinstance(client, str | Path) else getattr(client, "__qualname__", type(client).__name__)
    command = f"fedsim.audit_client({name}, batches={tuple(batches)}, minutes={minutes:g}, seed={seed})"
    plan = AuditPlan(
        target=name,
        batches=tuple(batches),
        minutes=minutes,
        seed=seed,
        device=device,
        knows=tuple(knows),
        updates=updates,
        defend=defend,
        command=command,
    )
    with TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        with RunFolder(folder, AUDIT).renew():
            record = auditing.run(load_subject(client_object, name), plan, policy or Policy(), folder, clock)
            return running.write_results(record, folder)
