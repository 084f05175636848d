"""A record lists every figure in it, and leaves out what nobody asked for."""

from fedsim.record import Finding, Interval, RunRecord
from tests.report import records


def test_figures_are_those_of_rounds_examples_and_updates() -> None:
    run = records.run([records.arm("all", [records.attack("ig", records.recovered(2))])])
    names = set(run.figures)
    assert {"psnr", "ssim", "label_accuracy"} <= names
    assert names >= set(run.arms[0].rounds[0].test_metrics)
    assert names <= set(run.metrics_by_name)
    assert RunRecord.model_validate_json(run.model_dump_json()) == run


def test_figures_of_findings_are_declared_too() -> None:
    found = Interval(value=3.0, low=2.0, high=4.0, n=8)
    written = Interval(value=0.5, low=0.2, high=0.8, n=8)
    own = Finding(
        question="exposure",
        label="canary x 8",
        metric="exposure",
        value=found,
        extra_metrics={"secret_extraction_rate": written},
    )
    run = records.run([records.arm("all", [], findings=(own,), items={"exposure/secrets": {"text": ["a"]}})])
    assert {"exposure", "secret_extraction_rate"} <= set(run.figures) <= set(run.metrics_by_name)
    assert RunRecord.model_validate_json(run.model_dump_json()) == run
