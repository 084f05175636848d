"""A whole release check: one model knows its members by heart, another never saw them."""

import json
from pathlib import Path

import pytest

from fedsim.core.errors import FedsimError
from fedsim.judgement.limits import BROKEN
from fedsim.judgement.policy import Policy
from fedsim.release import checking, verdict
from tests.release import hospital, texts


def test_an_overfitted_model_is_recovered_and_breaks_a_policy(tmp_path: Path) -> None:
    limits = Policy(findings={"auc": 0.6})
    sites = {"a": f"{hospital.__name__}:first_site", "b": f"{hospital.__name__}:second_site"}
    record = checking.check(hospital.plan(hospital.saved(tmp_path, 1), sites=sites), limits)
    assert verdict.answer(record).state == "recovered"
    assert verdict.exit_code(record) == BROKEN
    assert {one.question for one in record.attacks} == {"membership", "sources"}


def test_a_model_that_never_saw_the_members_is_not_recovered(tmp_path: Path) -> None:
    record = checking.check(hospital.plan(hospital.saved(tmp_path, 3)), Policy())
    assert verdict.answer(record).state != "recovered"
    assert {one.state for one in record.attacks} <= {"undecided", "withstood"}
    lucky = [record.control_of(one).value for one in record.attacks if one.metric == "auc"]
    assert all(one is not None and (one.low or 0) < 0.5 < (one.high or 0) for one in lucky)


def test_the_memory_of_a_language_model_is_in_the_record(tmp_path: Path) -> None:
    record = checking.check(texts.plan(tmp_path, 1, secrets=f"{texts.__name__}:secrets"), Policy())
    states = {one.label: one.state for one in record.of("exposure")}
    assert states == {"secrets planted 1 x": "recovered", "texts written on from their first half": "recovered"}
    assert verdict.answer(record).state == "recovered"


@pytest.mark.slow
def test_the_same_seed_gives_the_same_figures(tmp_path: Path) -> None:
    plan = hospital.plan(hospital.saved(tmp_path, 3))
    first, second = (checking.check(plan, Policy()).attacks for _ in range(2))
    assert [(one.value, one.p_value) for one in first] == [(one.value, one.p_value) for one in second]


def test_three_files_are_written(tmp_path: Path) -> None:
    record = checking.check(hospital.plan(hospital.saved(tmp_path, 3)), Policy())
    checking.write(record, tmp_path / "out" / "here")
    files = {path.name: path for path in (tmp_path / "out" / "here").iterdir()}
    assert sorted(files) == ["release.html", "release.json", "release.md"]
    assert json.loads(files["release.json"].read_text())["members"] == 120
    (tmp_path / "file").touch()
    with pytest.raises(FedsimError, match="cannot write to"):
        checking.write(record, tmp_path / "file" / "here")
