"""Audit somebody's own model: what of the client's data an update gives away, and what it would cost to stop that.

import fedsim
from fedsim.audit import verdict

record = fedsim.audit(lambda: (model, loss, loader), batches=(1, 4), minutes=5)
print(verdict.sentence(record))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedsim.audit import auditing, running, verdict
from fedsim.audit.clock import Clock
from fedsim.audit.record import KNOWS, AuditRecord, Plan
from fedsim.audit.subject import Subject, made
from fedsim.core.callable_modules import call_module
from fedsim.core.types import Knowledge
from fedsim.record.policy import Policy

__all__ = ["AuditRecord", "Plan", "Subject", "audit", "verdict"]


def audit(
    factory: Callable[[], Any],
    *,
    batches: Sequence[int] = (1, 4, 16),
    minutes: float = 5.0,
    out: Path | None = None,
    policy: Policy | None = None,
    knows: Sequence[Knowledge] = KNOWS,
    seed: int = 0,
    updates: int | None = None,
) -> AuditRecord:
    """Audit what a function returns, in this process: no memory limit, and the clock is heard between two operations.

    Args:
        factory: returns (model, loss, loader), or a `Subject`.
        batches: batch sizes to attack.
        minutes: wall time of everything.
        out: folder for record, pictures, page and tables; nothing is kept when absent.
        policy: thresholds; see `verdict.broken`.
        knows: what the attacker is granted; see `fedsim.core.types.Knowledge`.
        seed: of everything that is drawn.
        updates: attacked for each batch size and each defense; as many as give a few images when absent.

    Raises:
        FedsimError: the factory raises or returns something else, or nothing can be audited.
    """
    clock = Clock(60.0 * minutes)
    name = getattr(factory, "__qualname__", type(factory).__name__)
    command = f"fedsim.audit({name}, batches={tuple(batches)}, minutes={minutes:g}, seed={seed})"
    plan = Plan(
        target=name,
        batches=tuple(batches),
        minutes=minutes,
        seed=seed,
        knows=tuple(knows),
        updates=updates,
        command=command,
    )
    with TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        running.prepare(folder)
        record = auditing.run(made(factory, name), plan, policy or Policy(), folder, clock)
        return running.finished(record, folder)


call_module(__name__, audit)
