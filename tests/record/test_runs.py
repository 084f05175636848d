"""A record lists every figure in it, and leaves out what nobody asked for."""

from fedsim.record import ExposureRecord, RunRecord
from tests.report import records


def test_figures_are_those_of_rounds_examples_and_updates() -> None:
    run = records.run([records.arm("all", [records.attack("ig", records.recovered(2))])])
    names = set(run.figures)
    assert {"psnr", "ssim", "label_accuracy"} <= names
    assert names >= set(run.arms[0].rounds[0].tested)
    assert names <= set(run.declared)
    assert RunRecord.model_validate_json(run.model_dump_json()) == run


def test_exposure_is_written_only_where_secrets_were_planted() -> None:
    arm = records.arm("all", [])
    assert "exposure" not in arm.model_dump()
    assert "client_cost" in arm.model_dump()
    planted = arm.model_copy(update={"exposure": ExposureRecord(secrets=(), summaries=())})
    assert "exposure" in planted.model_dump()
