"""The whole family of attacks against dropout: each on a small case that suits it, at three dropout rates.

Three victims a setting, real images, untrained models. The case of an attack is
`benchmarks/cases/NAME.toml`; an attack without a file gets a single digit and a small MLP.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, mean_row, median_row
from benchmarks._runs import arms_of
from fedsim.core import registry
from fedsim.core.errors import FedsimError, first_line
from fedsim.core.hooks import Attack
from fedsim.core.types import Config
from fedsim.record import VictimRecord
from fedsim.scenario import Scenario, parse

RATES = [0.0, 0.25, 0.5]
VICTIMS = 3
ELSEWHERE = ("learned-prior", "question-readout")  # they need a trained model, and have experiments of their own
KNOWS = ["labels", "batch-size", "dropout-rates", "input-statistics"]
CASES = Path(__file__).with_name("cases")


class Case(Config):
    """What an attack is run on.

    Attributes:
        words: the case, for people.
        figure: what is reported: of examples (images, sentences), of masks, or of the words of a batch.
        attack: settings of the attack.
        tables: of a scenario; what they leave out has the values of `_scenario`.
    """

    words: str = "MLP without bias, digits"
    figure: Literal["images", "sentences", "masks", "words"] = "images"
    attack: dict[str, Any] = Field(default_factory=dict)
    tables: dict[str, Any] = Field(default_factory=dict)


def case_of(name: str) -> Case:
    """Return the case of an attack: that of its file, or the usual one.

    Raises:
        FedsimError: the file holds something else.
    """
    file = CASES / f"{name}.toml"
    if not file.exists():
        return Case()
    table = tomllib.loads(file.read_text(encoding="utf-8"))
    tables = {key: table.pop(key) for key in [*table] if key in Scenario.model_fields}
    try:
        return Case(**table, tables=tables)
    except (ValidationError, TypeError) as error:
        raise FedsimError(f"{file} is no case of an attack: {first_line(error)}") from error


@experiment("attack-family", minutes=15, page="attacks/README")
def attack_family(_budget: Budget) -> Cells:
    """Return a cell for each attack."""
    names = registry.methods("attack", Attack).keys() - set(ELSEWHERE)
    return {name: partial(_rows_of, name) for name in sorted(names)}


def _rows_of(name: str) -> Iterator[Row]:
    case = case_of(name)
    scenario = scenario_of(name, case)
    size = "" if scenario.federation.local_epochs else f", B = {scenario.federation.batch_size}"
    for rate, arm in zip(RATES, arms_of(scenario), strict=True):
        yield _FIGURES[case.figure](f"p = {rate:g}", f"{name}, {case.words}{size}", arm.attacks[0].victims)


def scenario_of(name: str, case: Case) -> Scenario:
    """Return the scenario of an attack's case, with an arm for every dropout rate."""
    given = dict(case.tables)
    usual: dict[str, dict[str, Any]] = {
        "federation": {"clients": 10},
        "threat": {"knows": KNOWS, "victims": VICTIMS, "keep_updates": False},
    }
    return parse(
        {
            "title": "attack family",
            "seed": 5,
            "data": {"name": "digits"},
            "model": {"name": "mlp", "width": 128, "depth": 2},
            "attacks": [{"name": name, **case.attack}],
            "arms": {"model.dropout": RATES},
            **{key: {**settings, **given.pop(key, {})} for key, settings in usual.items()},
            **given,
        },
        f"case of {name}",
    )


def _images(rate: str, setting: str, victims: Sequence[VictimRecord]) -> Row:
    """PSNR of the images."""
    psnr = [[score.values["psnr"] for score in victim.scores] for victim in victims if victim.scores]
    if not psnr:
        return _absent(rate, setting, "dB", victims[0].failure or "no image was scored")
    return median_row(rate, setting, psnr, "dB")._replace(note=_gave_up(victims))


def _masks(rate: str, setting: str, victims: Sequence[VictimRecord]) -> Row:
    """Accuracy of the masks, one value a place where the model drops out."""
    accuracies = [mask.accuracy for victim in victims for mask in victim.masks if mask.accuracy is not None]
    if not accuracies:
        return _absent(rate, setting, "of the entries", victims[0].failure or "the model drops nothing out")
    return median_row(rate, setting, accuracies, "of the entries")


def _sentences(rate: str, setting: str, victims: Sequence[VictimRecord]) -> Row:
    """Share of a sentence's tokens that are right."""
    by_victim = [[sentence.values for sentence in victim.scores] for victim in victims if victim.scores]
    if not by_victim:
        return _absent(rate, setting, "of the tokens", victims[0].failure or "no sentence was scored")
    tokens = [[sentence["token_accuracy"] for sentence in sentences] for sentences in by_victim]
    return mean_row(rate, setting, tokens, "of the tokens")


def _words(rate: str, setting: str, victims: Sequence[VictimRecord]) -> Row:
    """Share of a batch's words that are read."""
    shares = [victim.values["words_found"] for victim in victims if "words_found" in victim.values]
    if not shares:
        return _absent(rate, setting, "of the words", victims[0].failure or "no text was scored")
    return mean_row(rate, setting, shares, "of the words")


_FIGURES: Mapping[str, Callable[[str, str, Sequence[VictimRecord]], Row]] = {
    "images": _images,
    "sentences": _sentences,
    "masks": _masks,
    "words": _words,
}


def _absent(name: str, setting: str, unit: str, reason: str) -> Row:
    return Row(name, setting, 0.0, unit, n=0, note=reason)


def _gave_up(victims: Sequence[VictimRecord]) -> str:
    """Say why there is no image, where every victim's is missing for the same reason."""
    reasons = {victim.stopped for victim in victims}
    return reasons.pop() if len(reasons) == 1 and victims[0].stopped.startswith("gave up") else ""
