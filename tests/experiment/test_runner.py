"""From scenario to record and report, on real digits."""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from fedsim.core.errors import FedsimError
from fedsim.core.types import Config
from fedsim.experiment import runner, training
from fedsim.metrics.image import to_pixels
from fedsim.record import RunRecord
from fedsim.record.store import RunFolder, read_record
from fedsim.report import writing
from fedsim.scenario import Choice, Scenario
from fedsim.scenario.model_source import ModelSource
from fedsim.scenario.world import build as build_world
from tests.cli.typed import started
from tests.experiment.running import SHORT, Build, Silent, results, run


@pytest.fixture(scope="module")
def short_run(scenario: Build, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord]:
    """The folder and the record of a whole run, which tests leave as it is."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(scenario(**SHORT), folder)


def test_same_seed_same_bytes_other_seed_other_bytes(
    scenario: Build, tmp_path: Path, short_run: tuple[Path, RunRecord]
) -> None:
    folder, first = short_run
    second = run(scenario(**SHORT), tmp_path / "b")
    assert json.dumps(results(first)) == json.dumps(results(second))
    assert (folder / "arrays.npz").read_bytes() == (tmp_path / "b" / "arrays.npz").read_bytes()
    other = run(scenario(**SHORT, seed=4), tmp_path / "c")
    assert {arm.model_hash for arm in other.arms}.isdisjoint(arm.model_hash for arm in first.arms)


def test_the_record_tells_the_whole_story(scenario: Build, short_run: tuple[Path, RunRecord]) -> None:
    folder, record = short_run
    assert record == read_record(folder)
    assert record.status == "finished"
    assert [arm.name for arm in record.arms] == ["dropout 0.0", "dropout 0.25"]
    assert [arm.dropout for arm in record.arms] == [(), (0.25, 0.25)]
    assert all(arm.replay_matches and arm.complete for arm in record.arms)
    assert [arm.client_cost.n for arm in record.arms if arm.client_cost] == [2, 2]
    attack = record.arms[1].attacks[1]
    assert "masks" in attack.knows
    assert "masks" not in record.arms[1].attacks[0].knows
    assert [victim.client for victim in attack.victims] == [0, 1]
    assert attack.value is not None
    assert attack.value.n == 2
    for arm in record.arms:
        for victim in arm.attacks[0].victims:
            assert victim.objective_at_truth is not None
            assert abs(victim.objective_at_truth) < 1e-6
    stored = RunFolder(folder).read_arrays()
    guess = stored[f"{attack.victims[0].arrays}/guesses"]
    assert guess.shape == (1, 1, 8, 8)
    dataset = build_world(scenario(**SHORT)).data.dataset
    public = to_pixels(dataset.test.inputs, dataset.spec).numpy()
    errors = [float(np.square(one - guess[0]).sum()) for one in public]
    beside = stored[f"{attack.victims[0].arrays}/public"]
    assert (beside.dtype, beside.shape) == (np.uint8, (1, 1, 8, 8))
    assert np.abs(beside[0] / 255 - public[int(np.argmin(errors))]).max() <= 0.5 / 255 + 1e-6


def counting(calls: Counter[str], function: Callable[..., Any], name_of: Callable[..., str]) -> Callable[..., Any]:
    def counted(self: Any, *arguments: Any) -> Any:
        calls[name_of(self, *arguments)] += 1
        return function(self, *arguments)

    return counted


def test_an_arm_makes_each_method_and_its_model_once_and_checks_no_settings_anew(
    scenario: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacks = [{"name": "dlg", "max_iterations": 2}, {"name": "inverting-gradients", "max_iterations": 2}]
    attacks += [{"name": "closed-form-linear"}, {"name": "dlg", "label": "DLG again", "max_iterations": 3}]
    tables = {**SHORT, "attacks": attacks, "components": [{"name": "fedprox"}], "defenses": [{"name": "clipping"}]}
    two_arms = scenario(**tables, sources={"examples": 2})
    methods, models, settings = Counter[str](), Counter[str](), Counter[str]()
    monkeypatch.setattr(
        Choice, "make", counting(methods, Choice.make, lambda choice, kind, *_: f"{kind} {choice.name}")
    )
    monkeypatch.setattr(ModelSource, "_bare", counting(models, vars(ModelSource)["_bare"], lambda _: "model"))
    validate = counting(settings, vars(BaseModel)["model_validate"].__func__, lambda config, _: config.__name__)
    monkeypatch.setattr(Config, "model_validate", classmethod(validate))
    run(two_arms, tmp_path / "run")
    of_all_arms = {name: count for name, count in methods.items() if not name.startswith("dataset")}
    assert of_all_arms == {
        "model mlp": 2,
        "task classification": 2,
        "component fedprox": 2,
        "defense clipping": 2,
        "component sgd": 4,  # of clients and of the server
        "aggregator mean": 2,
        "attack dlg": 4,
        "attack inverting-gradients": 2,
        "attack closed-form-linear": 2,
        "distance cosine": 2,
        "distance squared": 8,  # DLG searches each victim alone
        "prior total-variation": 6,  # of the three attacks that descend
        "question attacks": 2,
        "question sources": 2,
    }
    assert models == {"model": 2}
    without = {"Config", "TimedConfig"}  # of a task and a question that have no settings
    assert settings.keys() <= {"Choice", "DigitsConfig", *without}


def test_a_test_set_that_clients_train_on_is_not_public(
    scenario: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build_world(scenario(**SHORT))
    dataset = replace(world.data.dataset, test=world.data.dataset.train)
    same = replace(world, data=replace(world.data, dataset=dataset))
    monkeypatch.setattr(runner, "build", lambda _: same)
    record = run(scenario(**SHORT), tmp_path / "run")
    stored = RunFolder(tmp_path / "run").read_arrays()
    places = [victim.arrays for victim in record.arms[0].attacks[0].victims]
    assert all(f"{place}/guesses" in stored and f"{place}/public" not in stored for place in places)


def test_an_interrupted_run_is_marked_and_resumed_without_repeating_work(
    scenario: Build, tmp_path: Path, short_run: tuple[Path, RunRecord]
) -> None:
    folder, whole = short_run
    with pytest.raises(KeyboardInterrupt):
        run(scenario(**SHORT), tmp_path / "cut", Silent(stop_at=3))
    left = read_record(tmp_path / "cut")
    assert left.status == "interrupted"
    assert [arm.complete for arm in left.arms] == [True, False]
    page = writing.build(tmp_path / "cut").read_text()
    assert "interrupted" in page
    rest = Silent()
    resumed = run(scenario(**SHORT), tmp_path / "cut", rest, earlier=left)
    assert len(rest.attacks) == 2  # both victims of each attack at once
    assert results(resumed) == results(whole)
    assert (tmp_path / "cut" / "arrays.npz").read_bytes() == (folder / "arrays.npz").read_bytes()


def test_another_scenarios_run_is_not_resumed(scenario: Build, short_run: tuple[Path, RunRecord]) -> None:
    folder, record = short_run
    with pytest.raises(FedsimError, match="another scenario or seed"):
        run(scenario(**SHORT, seed=8), folder, earlier=record)


def test_trained_weights_can_be_attacked(scenario: Build, tmp_path: Path) -> None:
    plain = {k: v for k, v in SHORT.items() if k != "arms"}
    first = run(scenario(**plain), tmp_path / "first")
    model = {"name": "mlp", "width": 24, "depth": 2, "checkpoint": str(tmp_path / "first" / "weights" / "arm-0.npz")}
    again = run(scenario(**{**plain, "model": model}), tmp_path / "again")
    assert again.arms[0].attacked_model == "weights of arm-0.npz"
    assert first.arms[0].attacked_model == "untrained"
    wrong = scenario(**{**plain, "model": {**model, "width": 25}})
    with pytest.raises(FedsimError, match=r"arm-0.npz does not fit the model"):
        run(wrong, tmp_path / "wrong")


def test_a_run_that_fails_in_a_later_arm_keeps_the_earlier_ones_and_the_reason(
    scenario: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federate, numbers = training.federate, iter((1, 2))

    def fails_in_the_second(*arguments: Any) -> Any:
        if next(numbers) == 2:
            raise FedsimError("every client of the round failed")
        return federate(*arguments)

    monkeypatch.setattr(training, "federate", fails_in_the_second)
    with pytest.raises(FedsimError, match="every client"):
        run(scenario(**SHORT), tmp_path / "run")
    record = read_record(tmp_path / "run")
    assert record.status == "failed"
    assert [arm.complete for arm in record.arms] == [True]
    assert "every client of the round failed" in record.failures[0].reason


@pytest.mark.parametrize(
    ("tables", "why"),
    [
        ({"arms": {"federation.batch_size": [1, 500]}}, "arm 'batch_size 500': .*batch_size is 500"),
        (
            {"components": [{"name": "fedprox"}], "arms": {"federation.engine": ["local", "vectorized"]}},
            "arm 'engine vectorized': engine 'vectorized' has no place for loss terms",
        ),
        (
            {"defenses": [{"name": "dp-sgd"}], "arms": {"federation.sampling": ["poisson", "shuffle"]}},
            "arm 'sampling shuffle': defense 'dp-sgd' does not fit",
        ),
        (
            {
                "membership": {"candidates": 4, "attacks": [{"name": "loss-threshold"}]},
                "arms": {"membership.candidates": [4, 100_000]},
            },
            "arm 'candidates 100000': membership",
        ),
    ],
)
def test_a_mistake_in_the_second_arm_is_told_before_the_first_is_trained(
    scenario: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: dict[str, Any], why: str
) -> None:
    monkeypatch.setattr(training, "federate", lambda *_: pytest.fail("it trained"))
    with pytest.raises(FedsimError, match=why):
        run(scenario(**{"attacks": [], **tables}), tmp_path / "run")
    assert not [*(tmp_path / "run").iterdir()]


def test_a_scenario_and_each_of_its_arms_is_validated_once(
    scenario: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated: list[str] = []

    def counted(name: str) -> Any:
        validate = getattr(Scenario, name)

        def counts(*arguments: Any, **settings: Any) -> Scenario:
            validated.append(name)
            return validate(*arguments, **settings)

        return staticmethod(counts)

    for name in ("model_validate", "model_validate_json"):
        monkeypatch.setattr(Scenario, name, counted(name))
    record = run(scenario(**SHORT, seed=2718), tmp_path / "run")
    assert len(record.arms) == 2
    assert len(validated) == 3


def test_a_share_smaller_than_a_batch_names_the_bound(scenario: Build, tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match=r"batch_size is 500, but client \d owns \d+"):
        run(scenario(federation={"batch_size": 500}), tmp_path / "run")


@pytest.mark.parametrize(
    "how",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_killed_command_leaves_a_valid_interrupted_record(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "s.toml").write_text(
        'title="t"\n[data]\nname="digits"\n[model]\nname="mlp"\nwidth=24\n[federation]\nclients=4\n'
        '[[attacks]]\nname="inverting-gradients"\nmax_iterations=1000000\nthreshold=0.0\npatience=1000000\n'
    )
    record = tmp_path / "out" / "record.json"
    deadline = time.monotonic() + 60
    with started("run", "s.toml", "--out", "out", cwd=tmp_path) as process:
        while not record.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.signal(how)
        code = process.wait(60)
        errors = process.errors()
    assert read_record(tmp_path / "out").status == "interrupted"
    if how != signal.SIGKILL:
        assert code == 130
        assert "add --resume to continue with arm 1 of 1, from round 1 on." in errors
        assert "Traceback" not in errors


def test_a_command_that_is_stopped_in_training_says_that_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(
        'title="t"\n[data]\nname="digits"\n[model]\nname="mlp"\nwidth=24\n[federation]\nclients=4\nrounds=1000000\n'
    )
    deadline = time.monotonic() + 60
    with started("run", "s.toml", "--out", "out", cwd=tmp_path) as process:
        while "Arm 1 of 1" not in process.printed() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.signal(signal.SIGINT)
        code = process.wait(60)
        errors = process.errors()
    assert code == 130
    assert "Interrupted before the first result. The same command starts again." in errors
    assert not (tmp_path / "out" / "record.json").exists()
