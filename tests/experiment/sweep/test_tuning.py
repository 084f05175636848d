"""The search for an attack's strongest setting: it improves on a bad default, on other victims, and goes on."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.experiment.sweep import tuning
from fedsim.experiment.sweep.tuning import tune
from fedsim.record import GuaranteeRecord
from fedsim.scenario import Scenario, parse

pytestmark = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is not installed")


def raw(**tune: Any) -> dict[str, Any]:
    return {
        "title": "tuned",
        "data": {"name": "digits"},
        "model": {"name": "mlp", "width": 16, "depth": 1, "dropout": 0.0},
        "federation": {"clients": 2},
        "attacks": [{"name": "inverting-gradients", "label": "IG", "max_iterations": 30, "learning_rate": 1e-5}],
        "tune": {
            "attack": "IG",
            "space": {"learning_rate": {"low": 1e-3, "high": 0.3, "log": True}},
            "trials": 4,
            **tune,
        },
    }


def test_it_finds_a_better_setting_than_a_bad_default_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    told: list[int] = []
    (first,) = tune(parse(raw(trials=3), "test"), tmp_path, lambda _arm, number, _of: told.append(number))
    assert first.default is not None
    assert first.score > first.default
    assert 1e-3 <= first.settings["learning_rate"] <= 0.3
    assert (first.trials, first.failed) == (3, 0)
    (second,) = tune(parse(raw(trials=4), "test"), tmp_path, lambda _arm, number, _of: told.append(number))
    assert told == [1, 2, 3, 4]
    assert second.score >= first.score
    assert second.default == first.default


def test_an_attack_on_sentences_is_scored_by_rouge_l(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\n\n".join(f"line {n} of a small text" for n in range(40)))
    told = {
        **raw(attack="dager", space={"prefixes": [100, 2000]}, trials=1),
        "data": {"name": "text-file", "path": str(tmp_path / "t.txt"), "length": 12, "train": 20, "test": 5},
        "model": {"name": "tiny-llama", "width": 48, "heads": 2},
        "threat": {"knows": ["batch-size", "dropout-rates"]},
        "attacks": [{"name": "dager"}],
    }
    (found,) = tune(parse(told, "test"), tmp_path / "out")
    assert found.metric == "ROUGE-L"
    assert found.default is not None
    assert 0.0 <= found.score == found.default <= 1.0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"attack": "GI"}, "tune.attack: no attack is 'GI'. Known: IG"),
        ({"space": {"learning_rat": [1]}}, "Did you mean 'learning_rate'"),
        ({"space": {"priors.0.wieght": [1]}}, "the attack has no setting 'priors.0.wieght'"),
        ({"space": {"priors.1.weight": [1]}}, "the attack has no setting 'priors.1.weight'"),
        ({"space": {"max_iterations": {"low": 3, "high": 2}}}, "expected low below high"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        tune(parse(raw(**changed), "test"), tmp_path)


def test_a_place_inside_a_setting_is_tuned(tmp_path: Path) -> None:
    (tuned,) = tune(parse(raw(space={"priors.0.weight": [10.0, 20.0]}, trials=2), "test"), tmp_path)
    assert tuned.settings.keys() <= {"priors.0.weight"}
    assert tuned.failed == 0


class Seen(Exception):
    """The scenario that would have run."""


def test_settings_are_scored_on_victims_that_the_run_itself_does_not_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(single: Scenario, *_: object, **__: object) -> None:
        raise Seen(single.seed, single.attacks[0].settings["learning_rate"])

    own = parse(raw(), "test")
    assert own.tune is not None
    monkeypatch.setattr(tuning, "run_into", run)
    with pytest.raises(Seen) as seen:
        tuning._score(own, own.tune, {"learning_rate": 0.2}, 0)
    seed, rate = seen.value.args
    assert seed != own.seed
    assert rate == 0.2


LAW = {"mean": 10.0}
STATED = {
    "source": "dp-sgd",
    "epsilon": 1.9931,
    "delta": 1e-5,
    "rdp_epsilon": 2.1657,
    "accountant": "exact",
    "unit": "record",
    "adjacency": "add-or-remove",
    "noise_multiplier": 2.0,
    "sampling_rate": 1.0,
    "steps": 1,
    "composition": "1 step",
    "adversary": "the server",
}


def tried(
    monkeypatch: pytest.MonkeyPatch, folder: Path, **table: Any
) -> tuple[tuning.Tuned, list[tuple[int, float]], list[int | None]]:
    """Return what a search says whose trials take no time, its trainings and rates, and the totals that it named."""
    guarantees = (GuaranteeRecord.model_validate(STATED),)
    rates: list[tuple[int, float]] = []

    def score(_arm: Scenario, _wanted: object, settings: dict[str, float], training: int) -> tuning.Trial:
        rates.append((training, settings.get("learning_rate", 0.0)))
        return tuning.Trial("SSIM", float(training % 3), guarantees)

    totals: list[int | None] = []
    monkeypatch.setattr(tuning, "_score", score)
    (best,) = tune(parse(raw(**table), "test"), folder, lambda _arm, _number, of: totals.append(of))
    return best, rates, totals


def test_a_number_of_trials_that_is_drawn_states_the_epsilon_of_the_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One Gaussian step of mu 0.5 and a geometric law of mean 10: 4.315 for 1.993, but for the orders."""
    monkeypatch.setattr(tuning, "draw_number", lambda *_: 6)
    best, rates, totals = tried(monkeypatch, tmp_path, trials=LAW)
    assert (best.epsilon, best.delta) == (1.9931, 1e-5)
    assert best.epsilon_of_choice == pytest.approx(4.315, abs=0.01)
    assert (best.trials, best.failed, best.default, totals) == (None, None, None, [None] * 6)
    assert [training for training, _ in rates] == list(range(6))
    assert 0.0 not in [rate for _, rate in rates]


def test_trials_of_a_known_number_attack_one_training_whose_epsilon_is_the_price(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, rates, totals = tried(monkeypatch, tmp_path, trials=3)
    assert (best.epsilon, best.epsilon_of_choice, best.trials) == (1.9931, None, 3)
    assert (totals, {training for training, _ in rates}) == ([3] * 3, {0})


@pytest.mark.slow
def test_orders_of_magnitude_are_proposed_alike_and_not_again_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {"learning_rate": {"low": 1e-4, "high": 1.0, "log": True}}
    monkeypatch.setattr(tuning, "draw_number", lambda *_: 60)
    _, before, _ = tried(monkeypatch, tmp_path, trials=LAW, space=space)
    monkeypatch.setattr(tuning, "draw_number", lambda *_: 120)
    _, after, _ = tried(monkeypatch, tmp_path, trials=LAW, space=space)
    proposed = [rate for _, rate in (*before, *after)]
    assert len(set(proposed)) == 120
    # Half of them are below 1e-2, the middle of the orders; three standard errors of 120 coins.
    assert sum(rate < 1e-2 for rate in proposed) / 120 == pytest.approx(0.5, abs=3 * 0.5 / 120**0.5)


@pytest.mark.parametrize(("trials", "words"), [(0, "greater than or equal to 1"), ({"mean": 1.0}, "greater than 1")])
def test_a_number_or_a_law_out_of_range_is_refused(trials: Any, words: str) -> None:
    with pytest.raises(ScenarioError, match=words):
        parse(raw(trials=trials), "test")


def test_where_every_trial_fails_the_reasons_are_told_with_their_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = iter(["too large", "no data", "too large"])

    def fail(*_about: Any) -> None:
        raise FedsimError(next(reasons))

    monkeypatch.setattr(tuning, "_score", fail)
    with pytest.raises(FedsimError, match=r"every trial for arm 'all' failed: 2 x too large; 1 x no data"):
        tune(parse(raw(trials=3), "test"), tmp_path)
