"""A whole audit, as a user starts it: what is found, shown, and said to a pipeline."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from fedsim.audit import audit_client, verdict
from fedsim.judgement.policy import Policy
from fedsim.metrics.statistics import wilson
from tests.cli.typed import fedsim

HERE = Path(__file__).parent


def test_one_image_of_a_perceptron_is_recovered_and_the_policy_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    import clients

    policy = Policy(max_recovered=0.05)
    record = audit_client(clients.make, batches=(1,), minutes=0.03, out=tmp_path, policy=policy)
    found = record.client[0]
    images = sum(len(victim.scores) for victim in found.victims)
    assert found.recovered_share == wilson(images, images)
    (broken,) = verdict.broken(record)
    assert broken.startswith("max_recovered = 0.05, but 100 % (")
    assert broken.endswith(" to 100) of the attacked examples of batch 1 were identified.")
    with (tmp_path / "images.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if not row["defense"]]
    assert len(rows) == images
    assert {row["recovered"] for row in rows} == {"True"}
    with np.load(tmp_path / "audit.npz") as arrays:
        for row, victim in zip(rows, found.victims, strict=True):
            error = arrays[f"{victim.arrays}/originals"] - arrays[f"{victim.arrays}/guesses"]
            assert float(np.square(error.astype(float)).mean()) == pytest.approx(float(row["mse"]), abs=1e-12)
    assert json.loads((tmp_path / "audit.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_a_pipeline_sees_exit_code_3_and_what_is_printed_is_nobodys_order(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.fedsim.policy]\nmax_recovered = 0.05\n")
    options = ("--batch-sizes", "1", "--minutes", "3", "--no-defenses")
    done = fedsim("audit", "clients:prints", *options, cwd=tmp_path, path=[HERE])
    assert done.returncode == 3, done.stderr
    assert "The policy is broken: max_recovered = 0.05, but 100 %" in done.stderr
    assert "Page: results/audit-prints/audit.html" in done.stdout
    assert (
        "--batch-sizes 1 --minutes 3 --out results/audit-prints --seed 0 --no-defenses"
        in (tmp_path / "results" / "audit-prints" / "audit.html").read_text()
    )
    assert '{"done": ""}' in (tmp_path / "results" / "audit-prints" / "audit.log").read_text()
