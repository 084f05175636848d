"""A whole release check: one model knows its members by heart, another never saw them."""

import json
from pathlib import Path

import pytest

from fedsim.core.errors import FedsimError
from fedsim.core.result_files import AUDIT, RELEASE
from fedsim.judgement.limits import BROKEN, exit_code
from fedsim.judgement.policy import Policy
from fedsim.record.atomic_files import MANIFEST
from fedsim.record.store import RunFolder
from fedsim.release import checking, verdict
from tests.release import hospital, texts


def test_an_overfitted_model_is_recovered_and_breaks_a_policy(tmp_path: Path) -> None:
    limits = Policy(findings={"auc": 0.6})
    sites = {"a": f"{hospital.__name__}:first_site", "b": f"{hospital.__name__}:second_site"}
    record = checking.check(hospital.plan(hospital.saved(tmp_path, 1), sites=sites), limits)
    assert verdict.answer(record).state == "recovered"
    assert exit_code(record.policy, (limit.state for limit in verdict.thresholds(record))) == BROKEN
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


def test_a_document_replaces_the_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    plan, out = hospital.plan(hospital.saved(tmp_path, 3)), tmp_path / "out" / "here"
    for seed in (0, 1):
        checking.run(plan.model_copy(update={"seed": seed}), Policy(), out)
        assert sorted(path.name for path in out.iterdir()) == [
            MANIFEST,
            *("release.html", "release.json", "release.md"),
        ]
        written = json.loads((out / "release.json").read_text())
        assert (written["members"], written["plan"]["seed"]) == (120, seed)
    (out / "thesis.txt").write_text("dear")
    with pytest.raises(FedsimError, match="holds 'thesis.txt', which is not a file of fedsim"):
        checking.run(plan, Policy(), out)
    assert json.loads((out / "release.json").read_text())["plan"]["seed"] == 1
    (tmp_path / "file").touch()
    with pytest.raises(FedsimError, match="cannot write to"):
        checking.run(plan, Policy(), tmp_path / "file" / "here")


def test_a_folder_in_use_or_of_an_audit_is_refused_before_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "check", lambda *_: pytest.fail("the check has begun"))
    plan = hospital.plan(hospital.saved(tmp_path, 3))
    audit = RunFolder(tmp_path / "audit", AUDIT)
    audit.write(AUDIT, b"{}")
    with pytest.raises(FedsimError, match="audit holds an audit. Choose another --out"):
        checking.run(plan, Policy(), audit.path)
    folder = RunFolder(tmp_path / "release", RELEASE)
    with folder.renew(), pytest.raises(FedsimError, match="another fedsim is at work in"):
        checking.run(plan, Policy(), folder.path)
    folder.write(RELEASE, b"{}")
    with pytest.raises(FedsimError, match="release holds a release check. Choose another --out"):
        RunFolder(folder.path).create(overwrite=True)
