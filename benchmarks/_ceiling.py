"""What the ideal attacker recovers of one update, as a row."""

from __future__ import annotations

from benchmarks._rows import Row
from fedsim.judgement.evidence import reach
from fedsim.metrics.success import Rule
from fedsim.questions.attacks.ceiling import ceiling_of
from fedsim.threat.victim import Victim

_SECONDS = 60.0  # of the ideal attacker, who is asked for an interval where they do not suffice


def ceiling_row(victim: Victim, words: str) -> Row:
    """Return the share of images that the ideal attacker recovers of one update exactly."""
    reached = reach([ceiling_of(victim, seconds=_SECONDS).ceiling], Rule.of("exact_pixels", 0.5))
    if reached is None or reached.share is None or reached.psnr is None:
        return Row("ideal attacker", words, 0.0, "share", n=0, note=reached.text if reached else "none")
    note = f"median {reached.psnr:.0f} dB"
    return Row("ideal attacker: images exact", words, reached.share, "share", note=note)
