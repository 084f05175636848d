"""Tuning: the strongest settings of an attack, separately for every arm, on victims that are never scored.

Tree-structured Parzen estimator of optuna (Akiba et al. 2019, arXiv 1907.10902). Every trial is a run of the arm with
another seed than the scenario's, so that data, partition and batches of its victims differ.

A fixed number of trials attacks the same training. If the number of trials is random, each trial has its own training
and independent settings, so that the epsilon of releasing the best trial can be computed.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from fedsim.core import seeding
from fedsim.core.errors import FedsimError, MissingExtra, ScenarioError, did_you_mean
from fedsim.experiment.hashes import scenario_hash
from fedsim.experiment.run_into import run_into
from fedsim.metrics.success import Rule
from fedsim.privacy.accounting import Spent
from fedsim.privacy.choosing import draw_number, epsilon_of_best
from fedsim.record import GuaranteeRecord
from fedsim.record.atomic_files import make_folder
from fedsim.scenario import Scenario, SearchRange, TrialCountLaw, Tune, arms, parse
from fedsim.scenario.combinations import set_value

if TYPE_CHECKING:
    import optuna

_MOST_REASONS = 3  # maximum number of failed trials' reasons in the message
_LOG = "trials.log"


class Trial(NamedTuple):
    """Result of a trial: the metric's title, its signed mean, and the training's guarantees."""

    metric: str
    score: float
    guarantees: tuple[GuaranteeRecord, ...]


@dataclass(frozen=True)
class Tuned:
    """The best settings for an arm.

    Attributes:
        arm: name of the arm.
        settings: the attack's settings in the search space.
        metric: title of the metric: the scoring metric, or the leading metric of such examples.
        score: mean over the victims' examples, higher is a stronger attack (negated if lower values are better).
        default: score of the scenario's settings; None if they were not tried.
        trials: number of trials; None if it was random, because it is secret.
        failed: number of failed trials; None like `trials`.
        epsilon: epsilon of a training, by its weakest guarantee; None without a guarantee.
        delta: delta of the guarantee.
        epsilon_of_choice: epsilon of the best of a random number of trials.
    """

    arm: str
    settings: dict[str, Any]
    metric: str
    score: float
    default: float | None
    trials: int | None
    failed: int | None
    epsilon: float | None = None
    delta: float | None = None
    epsilon_of_choice: float | None = None


def tune(
    scenario: Scenario, folder: Path, on_trial: Callable[[str, int, int | None], None] = lambda _arm, _number, _of: None
) -> list[Tuned]:
    """Return the best settings for every arm. Trials are stored in the folder, and a second call continues them.

    Args:
        scenario: scenario with a `tune` table.
        folder: folder for the trials.
        on_trial: called before every trial with arm, number and total; the total is None if it was random.

    Raises:
        MissingExtra: optuna is not installed.
        ScenarioError: the `tune` table is missing, or names an unknown attack or setting.
    """
    try:
        import optuna  # noqa: PLC0415 - an extra
        from optuna.storages.journal import JournalFileBackend  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtra("optuna", "pip install 'fedsim-privacy[tune]'") from error
    wanted = _check(scenario)
    optuna.logging.set_verbosity(logging.CRITICAL)
    make_folder(folder)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / _LOG)))
    law = wanted.trials if isinstance(wanted.trials, TrialCountLaw) else None
    best: list[Tuned] = []
    for place, (values, arm) in enumerate(arms(scenario)):
        name = ", ".join(f"{key} {value}" for key, value in values.items()) or "all"
        study = optuna.create_study(
            storage=storage,
            study_name=f"{scenario_hash(arm)} {wanted.model_dump_json(exclude=None if law else {'trials'})}",
            direction="maximize",
            load_if_exists=True,
        )
        begun = sum(trial.state.is_finished() for trial in study.trials)
        seed = seeding.derive(scenario.seed, "tune", begun) % 2**32
        study.sampler = optuna.samplers.RandomSampler(seed) if law else optuna.samplers.TPESampler(seed=seed)
        if not law and not study.trials:
            study.enqueue_trial({}, user_attrs={"default": True})
        for number in range(begun, _number_of(wanted.trials, scenario.seed, place)):
            on_trial(name, number + 1, None if law else cast("int", wanted.trials))
            trial = study.ask()
            is_default = trial.user_attrs.get("default")
            settings = {} if is_default else {k: _suggest(trial, k, s) for k, s in wanted.space.items()}
            trial.set_user_attr("settings", settings)
            try:
                metric, score, guarantees = _score(arm, wanted, settings, number if law else 0)
                trial.set_user_attr("metric", metric)
                trial.set_user_attr("guarantees", [guarantee.model_dump(mode="json") for guarantee in guarantees])
                study.tell(trial, score)
            except FedsimError as error:
                trial.set_user_attr("reason", str(error))
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
        best.append(_tune(name, study, law))
    return best


def _number_of(trials: int | TrialCountLaw, seed: int, arm: int) -> int:
    """Return the number of trials of an arm."""
    if isinstance(trials, int):
        return trials
    return draw_number(trials.mean, trials.shape, np.random.default_rng(seeding.derive(seed, "number of trials", arm)))


def _check(scenario: Scenario) -> Tune:
    if scenario.tune is None:
        raise ScenarioError("the scenario has no [tune] table. Add [tune] with attack = LABEL and [tune.space].")
    labels = {attack.report_name: attack for attack in scenario.attacks}
    if scenario.tune.attack not in labels:
        raise ScenarioError(
            f"tune.attack: no attack is '{scenario.tune.attack}'.{did_you_mean(scenario.tune.attack, labels)}"
        )
    settings = labels[scenario.tune.attack].model_dump(mode="json")
    for place in scenario.tune.space:
        try:
            _value_at(settings, place)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            suggestion = did_you_mean(place, settings)
            raise ScenarioError(f"tune.space: the attack has no setting '{place}'.{suggestion}") from error
    return scenario.tune


def _value_at(settings: Any, place: str) -> Any:
    """Return the value at a dotted path in settings, e.g. `priors.0.weight`."""
    for part in place.split("."):
        settings = settings[int(part) if isinstance(settings, list) else part]
    return settings


def _suggest(trial: optuna.Trial, name: str, span: SearchRange | tuple[Any, ...]) -> Any:
    if not isinstance(span, SearchRange):
        return trial.suggest_categorical(name, list(span))
    if isinstance(span.low, int) and isinstance(span.high, int):
        return trial.suggest_int(name, span.low, span.high, log=span.log)
    return trial.suggest_float(name, span.low, span.high, log=span.log)


def _score(arm: Scenario, wanted: Tune, settings: dict[str, Any], training: int) -> Trial:
    """Run the attack with these settings on victims of another seed, with index `training`, and return the result."""
    raw = arm.model_dump(mode="json", exclude={"tune", "sweep", "questions"})
    attack = next(attack for attack in raw["attacks"] if (attack["label"] or attack["name"]) == wanted.attack)
    for place, value in settings.items():
        set_value(attack, place.split("."), value)
    seed = seeding.derive(arm.seed, "tune victims", training) % 2**31
    single = parse({**raw, "seed": seed, "attacks": [attack]}, "tune")
    with tempfile.TemporaryDirectory() as place:
        record = run_into(single, Path(place) / "run", command="fedsim tune")
    victims = record.arms[0].attacks[0].victims
    rule = Rule.of(arm.scoring.metric, arm.scoring.threshold)
    items = [item for victim in victims for item in victim.scores]
    if not items:
        raise FedsimError("the attack gave no guess")
    goal = rule.goal(items[0].values)
    score = goal.sign * fmean(item.values[goal.name] for item in items)
    return Trial(goal.title, score, record.arms[0].guarantees)


def _tune(name: str, study: optuna.Study, law: TrialCountLaw | None) -> Tuned:
    done = [trial for trial in study.trials if trial.value is not None]
    if not done:
        reasons = Counter(str(trial.user_attrs["reason"]) for trial in study.trials if "reason" in trial.user_attrs)
        why = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(_MOST_REASONS))
        raise FedsimError(f"every trial for arm '{name}' failed: {why or 'no reason was kept'}")
    best = max(done, key=lambda trial: cast("float", trial.value))
    default = next((trial.value for trial in done if trial.user_attrs.get("default")), None)
    return Tuned(
        arm=name,
        settings=dict(best.user_attrs["settings"]),
        metric=best.user_attrs.get("metric", "score"),
        score=cast("float", best.value),
        default=default,
        trials=None if law else len(study.trials),
        failed=None if law else len(study.trials) - len(done),
        **_prices([GuaranteeRecord.model_validate(attr) for attr in best.user_attrs["guarantees"]], law),
    )


def _prices(guarantees: Sequence[GuaranteeRecord], law: TrialCountLaw | None) -> dict[str, float]:
    """Return the epsilon of a training, and of the best of a random number of trials; empty without guarantees."""
    if not guarantees:
        return {}
    weakest = max(guarantees, key=lambda guarantee: guarantee.epsilon)
    of_one = {"epsilon": weakest.epsilon, "delta": weakest.delta}
    if law is None:
        return of_one
    spent = Spent(weakest.noise_multiplier, weakest.sampling_rate, weakest.steps)
    return {**of_one, "epsilon_of_choice": epsilon_of_best([spent], law.mean, weakest.delta, law.shape)}
