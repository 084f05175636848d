"""Attacked updates with chosen scores, and what the ideal attacker recovers of them."""

from fedsim.metrics.success import Rule
from fedsim.record import Ceiling, ItemScore, VictimRecord

RULE = Rule.of("ssim", 0.5)


def victim(*hits: float, **found: object) -> VictimRecord:
    scores = tuple(ItemScore(index=i, values={"ssim": hit}) for i, hit in enumerate(hits))
    return VictimRecord(round=1, client=0, scores=scores).model_copy(update=found)


def ceiling(*hits: float, **found: object) -> Ceiling:
    scores = tuple(ItemScore(index=i, values={"ssim": hit}) for i, hit in enumerate(hits))
    return Ceiling(psnr=12.0, inputs=4, scores=scores).model_copy(update=found)
