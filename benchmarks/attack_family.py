"""The whole family of attacks against dropout: each on a small case that suits it, at three dropout rates.

Three victims a setting, real images, untrained models. `--attack NAME` runs one attack. The case of an attack is
`benchmarks/cases/NAME.toml`; an attack without a file gets a single digit and a small MLP.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import tomllib  # noqa: E402
from collections.abc import Callable, Iterator, Mapping, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Literal  # noqa: E402

import numpy as np  # noqa: E402
from pydantic import Field, ValidationError  # noqa: E402

from benchmarks._rows import Row, as_json, as_table  # noqa: E402
from benchmarks._runs import arms_of  # noqa: E402
from fedsim.core import registry  # noqa: E402
from fedsim.core.errors import FedsimError, in_a_line  # noqa: E402
from fedsim.core.types import Config  # noqa: E402
from fedsim.record import VictimRecord  # noqa: E402
from fedsim.scenario import Scenario, parse  # noqa: E402

RATES = [0.0, 0.25, 0.5]
VICTIMS = 3
RECOVERED = 25.0  # dB
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
        raise FedsimError(f"{file} is no case of an attack: {in_a_line(error)}") from error


def measure(names: Sequence[str]) -> Iterator[Row]:
    """Return the rows of these attacks, of every dropout rate."""
    for name in names:
        case = case_of(name)
        scenario = scenario_of(name, case)
        size = "" if scenario.federation.local_epochs else f", B = {scenario.federation.batch_size}"
        for rate, arm in zip(RATES, arms_of(scenario), strict=True):
            setting = f"{name}, {case.words}{size}, p = {rate:g}"
            yield from _FIGURES[case.figure](setting, arm.attacks[0].victims)


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


def _images(setting: str, victims: Sequence[VictimRecord]) -> Iterator[Row]:
    """PSNR of the images and the share of them that are recovered."""
    psnr = [score.values["psnr"] for victim in victims for score in victim.scores]
    if not psnr:
        yield _absent("PSNR", setting, "dB", victims[0].failure or "no image was scored")
        return
    yield _row("PSNR", setting + _gave_up(victims), "dB", psnr)
    yield _row(f"above {RECOVERED:g} dB", setting, "share", [float(x > RECOVERED) for x in psnr], mean=True)


def _masks(setting: str, victims: Sequence[VictimRecord]) -> Iterator[Row]:
    """Accuracy of the masks, one value a place where the model drops out."""
    accuracies = [mask.accuracy for victim in victims for mask in victim.masks if mask.accuracy is not None]
    if not accuracies:
        yield _absent("mask accuracy", setting, "share", victims[0].failure or "the model drops nothing out")
        return
    yield _row("mask accuracy", setting, "share", accuracies)


def _sentences(setting: str, victims: Sequence[VictimRecord]) -> Iterator[Row]:
    """Share of a sentence's tokens that are right, and of the sentences that are right altogether."""
    sentences = [sentence for victim in victims for sentence in victim.scores]
    if not sentences:
        yield _absent("token accuracy", setting, "share", victims[0].failure or "no sentence was scored")
        return
    for name in ("token accuracy", "exact"):
        values = [sentence.values[name.replace(" ", "_")] for sentence in sentences]
        yield _row(name, setting, "share", values, mean=True)


def _words(setting: str, victims: Sequence[VictimRecord]) -> Iterator[Row]:
    """Share of a batch's words that were found."""
    shares = [victim.extras["words found"] for victim in victims if victim.extras]
    if not shares:
        yield _absent("words found", setting, "share", victims[0].failure or "no text was scored")
        return
    yield _row("words found", setting, "share", shares, mean=True)


_FIGURES: Mapping[str, Callable[[str, Sequence[VictimRecord]], Iterator[Row]]] = {
    "images": _images,
    "sentences": _sentences,
    "masks": _masks,
    "words": _words,
}


def _row(name: str, setting: str, unit: str, values: Sequence[float], *, mean: bool = False) -> Row:
    median = float(np.median(values))
    value = float(np.mean(values)) if mean else median
    return Row(name, setting, value, unit, min(values), median, max(values), len(values), "reported", True)


def _absent(name: str, setting: str, unit: str, reason: str) -> Row:
    return Row(name, f"{setting}: {reason}", 0.0, unit, 0.0, 0.0, 0.0, 0, "reported", True)


def _gave_up(victims: Sequence[VictimRecord]) -> str:
    """Say why no image was found, where every victim's did for the same reason."""
    reasons = {victim.stopped for victim in victims}
    return f": {reasons.pop()}" if len(reasons) == 1 and victims[0].stopped.startswith("gave up") else ""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--attack", choices=sorted(registry.methods("attack")), help="only this attack")
    chosen = parser.parse_args()
    rows = list(measure([chosen.attack] if chosen.attack else sorted(registry.methods("attack"))))
    print(as_json(rows) if chosen.json else as_table(rows))


if __name__ == "__main__":
    main()
