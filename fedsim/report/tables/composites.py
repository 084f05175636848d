"""What attacks see of originals behind composites."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.record import AttackRecord, RunRecord
from fedsim.report.tables.figures import NOTHING, Estimate, estimate

MINOR_SHARES = ((0.0, 0.05), (0.05, 0.2), (0.2, 0.5))
"""Shares of the smaller label, above the first and up to the second, in which its recovery is counted."""


@dataclass(frozen=True)
class Sight:
    """One attack in one arm whose clients trained on composites; `minor` counts what was found by MINOR_SHARES."""

    arm: str
    attack: str
    trained: Estimate
    similarity: Estimate
    seen: Estimate
    part: Estimate
    labels: Estimate
    minor: tuple[str, ...]


def sights(record: RunRecord) -> list[Sight]:
    """Return scores against what the model saw, of every attack in an arm whose clients trained on composites."""
    return [
        Sight(
            arm=arm.name,
            attack=attack.label,
            trained=estimate(own.psnr_trained, 1, 1, " dB"),
            similarity=estimate(own.ssim_trained, 1, 2),
            seen=estimate(own.psnr_seen, 1, 1, " dB"),
            part=estimate(own.seen, 100, 0, "%"),
            labels=estimate(own.minor_found, 100, 0, "%"),
            minor=tuple(_found_between(attack, low, high) for low, high in MINOR_SHARES),
        )
        for arm in record.arms
        for attack in arm.attacks
        if attack.summary is not None and (own := attack.summary.composites) is not None
    ]


def _found_between(attack: AttackRecord, low: float, high: float) -> str:
    items = (item for victim in attack.victims for item in victim.scores if item.minor_share is not None)
    found = [item.minor_found for item in items if low < (item.minor_share or 0.0) <= high]
    if None in found or not found:
        return NOTHING
    return f"{sum(map(bool, found))} of {len(found)}"
