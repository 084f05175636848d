"""Attacks that descend, beside the literal Dropout Inversion Attack: time of an iteration, and time to a good image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks._programs import Program, engine, prepared_yardstick, stored, with_settings, yardstick
from benchmarks._rows import Row, measured, ratio
from benchmarks._victims import DIGITS, PHOTOGRAPHS
from benchmarks._watch import Goal
from benchmarks.attack_peers._service import Run, Task

_MLP = {"name": "mlp", "dropout": 0.25}
_SETTLING = 10
_ENDLESS = {"threshold": 0.0, "patience": 1_000_000}
Settings = Mapping[str, Any]
Musts = Mapping[int, tuple[str, str]]  # victims -> beside the yardstick in default and in our process settings


def iterations_of_mlp(passes: int) -> Iterator[Row]:
    """Yield how much faster an iteration on the MLP is."""
    # Of few victims most of an iteration is the dispatch of small operations (`benchmarks.roofline`).
    musts: Musts = {1: (">= 3", ">= 2"), 8: (">= 20", ">= 10"), 32: (">= 50", ">= 25")}
    yield from _iterations("MLP, MNIST, p = 0.25", DIGITS, _MLP, 110, musts, passes)


def iterations_of_transformer(passes: int) -> Iterator[Row]:
    """Yield how much faster an iteration on the small transformer is."""
    # Products of matrices, which both do alike, are half of an iteration; our settings speed the yardstick up too.
    musts: Musts = {1: (">= 1.3", ">= 1"), 8: (">= 2", ">= 1.5")}
    model = {"name": "vit-small", "dropout": 0.25}
    yield from _iterations("small ViT, CIFAR-10, p = 0.25", PHOTOGRAPHS, model, 30, musts, passes)


def time_to_image(
    setting: str, model: Settings, goal: Goal, settings: Settings, victims: int, cap: int, must: str
) -> Iterator[Row]:
    """Yield how much earlier than the yardstick's the guess reaches a score, both on one CIFAR-10 image after another.

    Args:
        setting: what the rows are about.
        model: name and settings.
        goal: the score.
        settings: of dropout-inversion.
        victims: images.
        cap: most iterations of the yardstick.
        must: the ratio asked for.
    """
    with stored(PHOTOGRAPHS, model, victims) as task, engine() as ours, yardstick() as theirs:
        _warm(task, ours, theirs)
        slow, fast = [], []
        for victim in range(victims):
            aim = task.model_copy(update={"victim": victim, "goal": goal})
            slow.append(theirs.ask(with_settings(aim, max_iterations=cap)))
            fast.append(ours.ask(with_settings(aim, **settings)))
    score = f"{goal.metric.upper()} {'<' if goal.metric == 'mse' else '>='} {goal.bound:g}"
    for who, runs in (("yardstick", slow), ("ours", fast)):
        note = f"reached by {sum(run.reached for run in runs)} of {victims}"
        taken = [run.seconds for run in runs]
        row = measured(f"{who}: seconds to {score}, or to the last iteration", setting, taken, "s")
        yield row._replace(note=note)
        yield measured(
            f"{who}: {goal.metric.upper()} then", setting, [float(getattr(run, goal.metric)) for run in runs], ""
        )
    ratios = [a.seconds / b.seconds if b.reached else 0.0 for a, b in zip(slow, fast, strict=True)]
    row = measured(f"yardstick / ours: time to {score}", setting, ratios, "times", must)
    yield row._replace(note=_caveat(slow, fast))


def ssim_at_equal_time(setting: str, model: Settings, settings: Settings, victims: int, iterations: int) -> Row:
    """Return our SSIM minus the yardstick's after its so many iterations, one CIFAR-10 image after another."""
    gains, scores = [], []
    with stored(PHOTOGRAPHS, model, victims) as task, engine() as ours, yardstick() as theirs:
        _warm(task, ours, theirs)
        for victim in range(victims):
            one = task.model_copy(update={"victim": victim})
            slow = theirs.ask(with_settings(one, max_iterations=iterations))
            trial = ours.ask(with_settings(one, **{**settings, "max_iterations": 2 * _SETTLING}))
            affordable = int((slow.seconds - trial.marks[0]) / _seconds_an_iteration(trial))
            fast = ours.ask(with_settings(one, **{**settings, "max_iterations": max(1, affordable)}))
            gains.append(fast.ssim - slow.ssim)
            scores.append(f"{fast.ssim:.2f} in {fast.seconds:.1f} s beside {slow.ssim:.2f} in {slow.seconds:.1f} s")
    return measured("ours - yardstick: SSIM at equal time", setting, gains, "", ">= 0")._replace(note="; ".join(scores))


def restarts(passes: int) -> Row:
    """Return what eight restarts cost in units of one."""
    times: dict[int, list[float]] = {1: [], 8: []}
    with stored(DIGITS, _MLP, 1) as task, engine() as ours:
        _warm(task, ours)
        for _ in range(passes):
            for trials, seconds in times.items():
                run = ours.ask(with_settings(task, max_iterations=200, restarts=trials, **_ENDLESS))
                seconds.append(run.seconds)
    return ratio("8 restarts / 1: time", "MLP, MNIST, p = 0.25, B = 1", times[8], times[1], "<= 3")


def _iterations(
    setting: str, data: Settings, model: Settings, iterations: int, musts: Musts, passes: int
) -> Iterator[Row]:
    default, prepared = [], []
    of_victims: dict[int, list[float]] = {victims: [] for victims in musts}
    with (
        stored(data, model, max(musts)) as task,
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
    return measured(f"{who}: iteration of one victim", setting, [1000.0 * value for value in seconds], "ms", "")


def _caveat(slow: Sequence[Run], fast: Sequence[Run]) -> str:
    """Say what a ratio means when somebody never got there."""
    if not all(run.reached for run in fast):
        return "0 where ours never got there"
    return "" if all(run.reached for run in slow) else "a lower bound, as the yardstick was cut off"
