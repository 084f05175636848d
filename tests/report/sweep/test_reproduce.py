"""What is needed to run a sweep again."""

import tomllib

from fedsim.core.source import toml
from fedsim.experiment.runner import scenario_hash
from fedsim.report.sweep import build
from fedsim.report.sweep.gathered import gather
from fedsim.report.sweep.reproduce import environments
from fedsim.scenario import parse


def run_of(records, sweeps, seed):
    return sweeps.run(records, "none", seed, records.recovered(2))


def test_environments_that_differ_in_the_commit_alone_are_one(tmp_path, records, sweeps, page_of):
    changes = [{}, {"git_dirty": False}, {}, {"git_commit": "beef" * 4}, {"git_commit": None}, {"python": "3.12.1"}]
    runs = [
        ("none", seed, one.model_copy(update={"environment": one.environment.model_copy(update=change)}))
        for seed, change in enumerate(changes)
        for one in [run_of(records, sweeps, seed)]
    ]
    folder = sweeps.save(tmp_path, records, runs)
    first, second = environments(gather(folder))
    assert [(one.git_commit, one.git_dirty, count) for one, count in first] == [
        ("0123456789abcdef", True, 2),
        ("0123456789abcdef", False, 1),
        ("beef" * 4, True, 1),
        (None, True, 1),
    ]
    assert (sum(count for _, count in first), sum(count for _, count in second), len(second)) == (5, 1, 1)
    page = page_of(build(folder).read_text(encoding="utf-8"))
    assert page.text.count("fedsim run scenarios/dropout.toml") == 2
    assert "0123456789abcdef with uncommitted changes: 2 records" in page.text


def test_the_scenario_in_the_page_is_the_one_that_ran(typical):
    raw = {"title": "a", "model": {"name": "mlp", "width": 8}, "sweep": {"grid": {"model.dropout": [0.0, 0.5]}}}
    scenario = parse({**raw, "attacks": [{"name": "dropout-inversion"}], "policy": {"max_epsilon": 3.0}}, "test")
    again = parse(tomllib.loads(toml(scenario.model_dump(mode="json"))), "again")
    assert scenario_hash(again) == scenario_hash(scenario)
    assert again.policy == scenario.policy
