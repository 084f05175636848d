"""The words for a success in tables of an audit."""

import pytest

from fedsim.audit import scoring
from fedsim.audit.record import AuditPlan
from fedsim.judgement.policy import Policy
from fedsim.scenario import Scoring
from tests.audit.findings import record


@pytest.mark.parametrize(
    ("metric", "threshold", "word", "rule"),
    [
        ("identified", 0.5, "identified", "identified"),
        ("exact_pixels", 0.5, "exact", "exact"),
        ("ssim", 0.5, "readable", "readable (SSIM > 0.5)"),
        ("ssim", 0.7, "readable", "readable (SSIM > 0.7)"),
        ("ssim", 0.4, "recovered", "recovered (SSIM > 0.4)"),
        ("psnr", 20.0, "recovered", "recovered (PSNR > 20 dB)"),
    ],
)
def test_the_verdict_is_the_word_of_what_was_measured(metric: str, threshold: float, word: str, rule: str) -> None:
    plan = AuditPlan(target="a:b", scoring=Scoring(metric=metric, threshold=threshold))
    audited = record(Policy()).model_copy(update={"plan": plan})
    assert scoring.verdict_of(audited) == word
    assert scoring.rule(audited) == rule


def test_metrics_are_those_of_examples_of_a_noun() -> None:
    images, rows = ({metric.name for metric in scoring.metrics_of(noun)} for noun in ("image", "row"))
    assert {"identified", "psnr", "ssim", "exact_pixels"} <= images
    assert rows
    assert not images & rows
