"""How long does an iteration of an attack that descends take, beside the published loop?

Beside it: a literal Dropout Inversion Attack (`benchmarks._literal_dia`). Seconds are those of the processor; ratios
are of runs that alternate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._programs import Program, engine, prepared_yardstick, store_victims, with_settings, yardstick
from benchmarks._rows import Row, median_row, ratio
from benchmarks._victims import DIGITS, PHOTOGRAPHS
from benchmarks.attack_peers._service import Run, Task

_MLP = {"name": "mlp", "dropout": 0.25}
_SETTLING = 10
_ENDLESS = {"threshold": 0.0, "patience": 1_000_000}
Settings = Mapping[str, Any]
Musts = Mapping[int, tuple[str, str]]  # victims -> beside the yardstick in default and in our process settings


@experiment("attacks", minutes=5, page="benchmarks/attacks")
def attacks(budget: Budget) -> Cells:
    """Return a cell for each model, and one of restarts."""
    passes = 10 if budget.full else 5
    return {
        "MLP": partial(_iterations_of_mlp, passes),
        "small ViT": partial(_iterations_of_transformer, passes),
        "restarts": partial(_restarts, passes),
    }


def _iterations_of_mlp(passes: int) -> Iterator[Row]:
    """Yield how much faster an iteration on the MLP is."""
    # Of few victims most of an iteration is the dispatch of small operations (`benchmarks.roofline`).
    musts: Musts = {1: (">= 3", ">= 2"), 8: (">= 20", ">= 10"), 32: (">= 50", ">= 25")}
    yield from _iterations("MLP, MNIST, p = 0.25", DIGITS, _MLP, 110, musts, passes)


def _iterations_of_transformer(passes: int) -> Iterator[Row]:
    """Yield how much faster an iteration on the small transformer is."""
    # Products of matrices, which both do alike, are half of an iteration; our settings speed the yardstick up too.
    musts: Musts = {1: (">= 1.3", ">= 1"), 8: (">= 2", ">= 1.5")}
    model = {"name": "vit-small", "dropout": 0.25}
    yield from _iterations("small ViT, CIFAR-10, p = 0.25", PHOTOGRAPHS, model, 30, musts, passes)


def _restarts(passes: int) -> Iterator[Row]:
    """Yield what eight restarts cost in units of one."""
    times: dict[int, list[float]] = {1: [], 8: []}
    with store_victims(DIGITS, _MLP, 1) as task, engine() as ours:
        _warm(task, ours)
        for _ in range(passes):
            for trials, seconds in times.items():
                run = ours.ask(with_settings(task, max_iterations=200, restarts=trials, **_ENDLESS))
                seconds.append(run.marks[-1])
    yield ratio("8 restarts / 1: time", "MLP, MNIST, p = 0.25, B = 1", times[8], times[1], "<= 3")


def _iterations(
    setting: str, data: Settings, model: Settings, iterations: int, musts: Musts, passes: int
) -> Iterator[Row]:
    default, prepared = [], []
    of_victims: dict[int, list[float]] = {victims: [] for victims in musts}
    with (
        store_victims(data, model, max(musts)) as task,
        yardstick() as plain,
        prepared_yardstick() as tuned,
        engine() as ours,
    ):
        _warm(task, plain, tuned, ours)
        one = with_settings(task, max_iterations=iterations)
        for _ in range(passes):
            default.append(_seconds_an_iteration(plain.ask(one)))
            prepared.append(_seconds_an_iteration(tuned.ask(one)))
            for victims, seconds in of_victims.items():
                together = with_settings(one, **_ENDLESS).model_copy(update={"together": victims})
                seconds.append(_seconds_an_iteration(ours.ask(together)) / victims)
    yield _milliseconds("yardstick, default process", setting, default)
    yield _milliseconds("yardstick, our process settings", setting, prepared)
    for victims, (must_default, must_prepared) in musts.items():
        where = f"{setting}, {victims} at once"
        yield _milliseconds("ours", where, of_victims[victims])
        yield ratio("yardstick, default process / ours: iteration", where, default, of_victims[victims], must_default)
        name = "yardstick, our process settings / ours: iteration"
        yield ratio(name, where, prepared, of_victims[victims], must_prepared)


def _seconds_an_iteration(run: Run) -> float:
    """Return the difference of two iterations' times over their distance, which leaves out what comes before."""
    return (run.marks[-1] - run.marks[_SETTLING - 1]) / (len(run.marks) - _SETTLING)


def _warm(task: Task, *programs: Program) -> None:
    for program in programs:
        program.ask(with_settings(task, max_iterations=2))


def _milliseconds(who: str, setting: str, seconds: Sequence[float]) -> Row:
    return median_row(f"{who}: iteration of one victim", setting, [1000.0 * value for value in seconds], "ms", "")
