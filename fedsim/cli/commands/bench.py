"""`fedsim bench parallel` and `fedsim bench model`."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fedsim.cli.commands._console import Commands, OneCommand, advise_on_interrupt, app, say, screen
from fedsim.core.errors import FedsimError, did_you_mean

if TYPE_CHECKING:
    from fedsim.bench.descent import TrainingStep
    from fedsim.bench.parallel import Measured, Solver, Strategy
    from fedsim.bench.training import TrainedModel
    from fedsim.metrics.statistics import Interval

_AT_ONCE = (1, 2, 4, 8)
_LINE_EVERY_SECONDS = 10.0
_SHORTEST, _LONGEST = 2, 8
_READINGS = ("lenient", "strict")

bench = typer.Typer(cls=Commands, no_args_is_help=True, help="Benchmarks of decoders, and the small models for them.")
app.add_typer(bench, name="bench")


@bench.command(
    cls=OneCommand, epilog="Example: fedsim bench parallel --operation shuffle --operation copy --samples 50"
)
def parallel(
    model: Annotated[
        str, typer.Option(help="table: the exact model of each list; or a small model of `fedsim bench model`")
    ] = "table",
    operation: Annotated[
        list[str] | None,
        typer.Option(help="a list operation, puzzle or kind of sentence, and again for more; absent: list operations"),
    ] = None,
    decoder: Annotated[
        str | None, typer.Option(help="an unmasker of `fedsim list components`; unset: the basic unmaskers")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a setting of the unmasker")
    ] = None,
    grid: Annotated[
        bool, typer.Option("--grid", help="the published grid of blocks, schedules and thresholds")
    ] = False,
    shortest: Annotated[int, typer.Option(min=_SHORTEST, max=_LONGEST, help="letters of the shortest lists")] = 3,
    longest: Annotated[int, typer.Option(min=_SHORTEST, max=_LONGEST, help="letters of the longest lists")] = 6,
    places: Annotated[
        int | None,
        typer.Option(min=1, help="of each answer of the exact model, with ends behind its letters; absent: no ends"),
    ] = None,
    written: Annotated[
        str | None,
        typer.Option(
            help="lenient or strict: answers of the exact model are lists of names as the benchmark prints them, a "
            "token a sign, read without or with regard to quotes and blanks"
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="lists of each operation")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="seed of the lists and of the samples")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure the cost of several tokens a step on lists, puzzles and sentences: exactly, and with an unmasker."""
    from fedsim.bench.parallel import OTHERS, draw, measure
    from fedsim.bench.theory import analyse, mean_loss

    if shortest > longest:
        raise FedsimError(f"--shortest is {shortest} and --longest {longest}: expected at most as many.")
    if places is not None and (model != "table" or places <= longest):
        raise FedsimError(f"--places is for the exact model, expected more than the {longest} letters of --longest.")
    operations = _operations(model, operation or [])
    baselines = [name for name in operations if name in OTHERS]
    solver = _exact(places, written, baselines) if model == "table" else _network(model, written)
    strategies = _strategies(decoder, set_ or [], grid)
    exact = analyse(longest, [step for step in _AT_ONCE if step <= longest])
    questions = {name: draw(name, range(shortest, longest + 1), samples, seed) for name in operations}
    losses = {name: mean_loss([list(operation.answers()) for operation in questions[name]]) for name in baselines}
    if not as_json:
        _show_exact(longest, [row for row in exact if row.operation in operations])
        _show_losses(losses)
    measured: list[Measured] = []
    for name, of_name in questions.items():
        of_operation = [measure(strategy, solver, of_name, seed) for strategy in strategies]
        measured += of_operation
        if not as_json:
            _show_measured(name, of_operation)
    if as_json:
        typer.echo(json.dumps(_as_data(exact, losses, measured), indent=1))


@bench.command(cls=OneCommand, epilog="Example: fedsim bench model lists")
def model(
    name: Annotated[
        str,
        typer.Argument(
            help="lists, random-lists, news, digit-grids, digit-grids-unfrozen, rcp-50, rcp-37, digits-unet, "
            "photographs-unet, digits-patches, digits-patches-draft, digits-in-any-order, digits-in-any-order-draft, "
            "photographs-patches or photographs-patches-draft; each is trained once and kept, and goes on where it was "
            "after an interruption"
        ),
    ],
    samples: Annotated[int, typer.Option(min=1, help="lists or questions of each kind that it is tested on")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="number of test examples")] = 1,
) -> None:
    """Train a small model of texts, of images, or of both from scratch, once, and print how good it is."""
    known = _small_models()
    if name not in known:
        raise FedsimError(f"unknown small model '{name}'.{did_you_mean(name, known)}")
    with advise_on_interrupt(lambda: "Interrupted. The same command goes on where it was."):
        known[name](name, samples, seed)


def _small_models() -> dict[str, Callable[[str, int, int], None]]:
    """Return, by the name of each small model, the function that trains it and prints its quality."""
    from fedsim.bench import denoisers, grids, pruning, training, unfreezing

    of_text = {
        name: _show_lists if recipe.data == "list-operations" else _show_text
        for name, recipe in training.RECIPES.items()
    }
    return {
        **of_text,
        **dict.fromkeys(denoisers.RECIPES, _show_denoiser),
        "digit-grids": partial(_show_grids, lambda _name: grids.load_trained_model(_Steps())),
        unfreezing.NAME: partial(_show_grids, lambda _name: unfreezing.load_trained_model(_Steps())),
        **dict.fromkeys(pruning.RECIPES, partial(_show_grids, lambda name: pruning.load_trained_model(name, _Steps()))),
    }


def _train(name: str) -> TrainedModel:
    from fedsim.bench import training

    small = training.load_trained_model(name, _Steps())
    _introduce(name, training.RECIPES[name].holds, small.model)
    return small


def _show_lists(name: str, samples: int, seed: int) -> None:
    _train(name)
    _show_accuracies(name, samples, seed)


def _show_text(name: str, _samples: int, seed: int) -> None:
    small = _train(name)
    _show_bound(small.model, small.data, seed)


def _show_denoiser(name: str, _samples: int, seed: int) -> None:
    from fedsim.bench import denoisers

    recipe = denoisers.RECIPES[name]
    small = denoisers.load_trained_denoiser(name, _Steps())
    _introduce(name, recipe.holds, small.model)
    _show_loss(small.model, small.data, denoisers.task_of(recipe), seed)
    say(f"kept in {small.folder}")


class _Steps:
    """Prints training steps to standard error: the first, then every ten seconds with the time left, and the last.

    Steps of an earlier, resumed run are not timed: the time left is computed from the steps of this run.
    """

    def __init__(self) -> None:
        self._stage = ""

    def __call__(self, step: TrainingStep) -> None:
        """Print a step, or leave it out."""
        time_now = time.monotonic()
        if step.stage != self._stage:
            self._stage, self._first, self._began, self._said = step.stage, step.number, time_now, -math.inf
        if time_now - self._said < _LINE_EVERY_SECONDS and step.number < step.of:
            return
        self._said = time_now
        parts = [f"loss {step.loss:.3f}", step.note, self._time_left(step, time_now - self._began)]
        line = f"  {step.stage}, step {step.number} of {step.of}: {', '.join(filter(None, parts))}"
        print(line, file=sys.stderr, flush=True)

    def _time_left(self, step: TrainingStep, seconds: float) -> str:
        from fedsim.report.tables.figures import duration

        done = step.number - self._first
        if not done or step.number == step.of:
            return ""
        return f"{duration(seconds / done * (step.of - step.number))} left"


def _introduce(name: str, holds: str, model: Any) -> None:
    say(f"{name}: {holds}; {sum(p.numel() for p in model.parameters()):,} parameters")


def _show_grids(train: Callable[[str], Any], name: str, samples: int, seed: int) -> None:
    from fedsim.bench import grid_accuracy, unfreezing

    model = train(name)
    _introduce(name, "questions about grids of digits", model)
    table = Table(box=None)
    for label in ("question", "right", "95 %", "image black", "usual answer", "several"):
        table.add_column(label, no_wrap=True)
    for kind in (*grid_accuracy.MEASURED, "list") if name == unfreezing.NAME else grid_accuracy.MEASURED:
        accuracy = grid_accuracy.accuracy(model, kind, samples, seed)
        repeated = f"{100 * accuracy.repeated_digits.value:.1f}" if accuracy.repeated_digits else ""
        shares = (f"{100 * share:.1f}" for share in (accuracy.blind.value, accuracy.majority))
        table.add_row(kind, f"{100 * accuracy.right.value:.1f}", _bounds(accuracy.right), *shares, repeated)
    say(f"Right answers in % to {samples} questions of each kind about unseen digits; with a black image; share of the")
    say("most frequent answer; and where the digit that is counted occurs more than once.")
    screen.print(table)


def _show_accuracies(name: str, samples: int, seed: int) -> None:
    from fedsim.bench.parallel import Strategy, draw_samples, measure
    from fedsim.bench.training import RECIPES, lengths

    strategies = [Strategy(f"{places} a step", "fixed", {}, places) for places in _AT_ONCE]
    strategies.append(Strategy("threshold 0.9", "threshold"))
    table = Table(box=None)
    table.add_column("operation", no_wrap=True)
    for label in ("1", "95 %", "2", "4", "8", "0.9", "passes"):
        table.add_column(label, no_wrap=True)
    for operation in _operations(name, []):
        lists = draw_samples(operation, lengths(RECIPES[name]), samples, seed)
        measured = [measure(strategy, _network(name), lists, seed) for strategy in strategies]
        passes = sum(answer.passes for answer in measured[-1].answers) / samples
        first, *later_rows = [row.accuracy for row in measured]
        interval = _bounds(first)
        shares = (f"{100 * accuracy.value:.1f}" for accuracy in later_rows)
        table.add_row(operation, f"{100 * first.value:.1f}", interval, *shares, f"{passes:.2f}")
    say(f"Right answers in % among {samples} new lists: 1, 2, 4 and 8 places a step, the surest first,")
    say("and a threshold of 0.9 with its mean passes.")
    screen.print(table)


def _bounds(share: Interval) -> str:
    assert share.low is not None, "a share has an interval"
    assert share.high is not None, "a share has an interval"
    return f"{100 * share.low:.1f}-{100 * share.high:.1f}"


def _show_bound(model: Any, data: Any, seed: int) -> None:
    import torch

    from fedsim.core import registry, seeding

    method = registry.get("task", "masked-diffusion")
    with torch.no_grad():
        figures = method.make(method.config()).evaluate(model, data, seeding.generator(seed, "testing"))
    nats = figures["test_loss"]
    say(f"bound on held-out text: {nats:.3f} nats ({nats / math.log(2):.3f} bits) a token")
    say(f"masked tokens that are guessed: {figures['test_accuracy']:.1%}")


def _show_loss(model: Any, data: Any, task: Any, seed: int) -> None:
    import torch

    from fedsim.core import seeding

    seen = replace(data, test=next(data.train.split(len(data.test))))
    with torch.no_grad():
        of_tests, of_training = (
            task.evaluate(model, examples, seeding.generator(seed, "testing")) for examples in (data, seen)
        )
    say(f"denoising loss of test images: {of_tests['test_denoising_loss']:.4f}")
    say(f"the same of as many training images: {of_training['test_denoising_loss']:.4f}")


def _operations(model: str, names: Sequence[str]) -> list[str]:
    from fedsim.bench.parallel import OTHERS
    from fedsim.bench.training import RECIPES
    from fedsim.data._lists import OPERATIONS

    usual: Sequence[str] = OPERATIONS
    if model != "table":
        settings = RECIPES[model].settings if model in RECIPES else {}
        usual = [name for name in OPERATIONS if name in settings.get("operations", ())]
    known = [*usual, *OTHERS] if model == "table" else usual
    unknown = [name for name in names if name not in known]
    if unknown:
        raise FedsimError(f"--operation: model '{model}' knows no '{unknown[0]}'.{did_you_mean(unknown[0], known)}")
    return list(dict.fromkeys(names)) or list(usual)


def _exact(places: int | None, written: str | None, operations: Sequence[str]) -> Solver:
    from fedsim.bench.parallel import Exact, SpelledLists

    if operations and (places is not None or written is not None):
        option = "--places" if written is None else "--written"
        raise FedsimError(f"{option} is for operations on lists: '{operations[0]}' is none.")
    if written is None:
        return Exact(places)
    if written not in _READINGS:
        raise FedsimError(f"--written is '{written}', expected any of {', '.join(_READINGS)}.")
    if places is not None:
        raise FedsimError("--written has lists as long as they are: leave out --places.")
    return SpelledLists(strict=written == "strict")


def _network(name: str, written: str | None = None) -> Solver:
    from fedsim.bench.parallel import Network
    from fedsim.bench.training import RECIPES, load_trained_model

    if written is not None:
        raise FedsimError("--written is for the exact model: leave out --model.")
    of_lists = [recipe_name for recipe_name, recipe in RECIPES.items() if recipe.data == "list-operations"]
    if name not in of_lists:
        raise FedsimError(f"--model: unknown model '{name}' of lists.{did_you_mean(name, ['table', *of_lists])}")
    return Network(load_trained_model(name, _Steps()).model)


def _strategies(decoder: str | None, settings: list[str], wants_grid: bool) -> list[Strategy]:
    from fedsim.bench.parallel import Strategy, grid, usual
    from fedsim.core import registry
    from fedsim.data._lists import ListTokenizer
    from fedsim.scenario.reading import read_settings

    if decoder is None and settings:
        raise FedsimError("--set names a setting of an unmasker: name the unmasker with --decoder.")
    if decoder is None:
        return grid(ListTokenizer().answer_length) if wants_grid else usual(_AT_ONCE[:3])
    known = [name for name, entry in registry.entries("component").items() if entry.hook == "unmasker"]
    if decoder not in known:
        raise FedsimError(f"--decoder: there is no unmasker '{decoder}'.{did_you_mean(decoder, known)}")
    chosen = read_settings(registry.get("component", decoder), settings)
    return [Strategy(" ".join([decoder, *settings]), decoder, chosen.model_dump(exclude_unset=True))]


def _show_losses(losses: Mapping[str, tuple[float, float]]) -> None:
    if not losses:
        return
    table = Table("asked", "C in nats", "in one step", box=None)
    for name, (nats, share) in losses.items():
        table.add_row(name, f"{nats:.3f}", f"{share:.2g}")
    say("Exact model: total correlation, and accuracy of all positions in a single step; means over the lists.")
    screen.print(table)


def _show_exact(longest: int, exact: Sequence[Any]) -> None:
    if not exact:
        return
    at_once = [places for places in _AT_ONCE if places <= longest]
    columns = [f"{places} a step" for places in at_once]
    right = Table("operation", "C in nats", *columns, box=None)
    lost = Table("operation", *columns, box=None)
    for row in exact:
        right.add_row(row.operation, f"{row.correlation:.3f}", *(f"{share:.4f}" for share in row.accuracies))
        lost.add_row(row.operation, *(f"{nats:.3f}" for nats in row.losses))
    say(f"Exact model, {longest} letters, drawn in random order: total correlation and accuracy.")
    screen.print(right)
    say("The least that any model loses so, in nats.")
    screen.print(lost)


def _show_measured(operation: str, measured: Sequence[Measured]) -> None:
    from fedsim.bench.parallel import GOOD, best, oracle

    table = Table(operation, "accuracy", "95 %", "tokens a pass", "left to right", box=None)
    for row in measured:
        accuracy = row.accuracy
        interval = f"{accuracy.low:.3f} to {accuracy.high:.3f}"
        table.add_row(
            Text(row.strategy.label),
            f"{accuracy.value:.3f}",
            interval,
            f"{row.tokens_a_pass:.2f}",
            f"{row.left_to_right:+.2f}",
        )
    say("")
    screen.print(table)
    if len(measured) > 1:
        best_share, (share, tokens) = best(measured), oracle(measured)
        say(f"Most tokens a pass at {GOOD:.0%} or more: {'none' if best_share is None else f'{best_share:.2f}'}.")
        say(f"The best strategy of each list: {share:.1%} right, {tokens:.2f} tokens a pass.")


def _as_data(
    exact: Sequence[Any], losses: Mapping[str, tuple[float, float]], measured: Sequence[Measured]
) -> dict[str, Any]:
    return {
        "exact": [row._asdict() for row in exact],
        "mean_loss": {name: {"correlation": nats, "one_step": share} for name, (nats, share) in losses.items()},
        "measured": list(map(_measured_data, measured)),
    }


def _measured_data(measured: Measured) -> dict[str, Any]:
    accuracy = measured.accuracy
    return {
        "operation": measured.operation,
        "strategy": measured.strategy.label,
        "accuracy": accuracy.value,
        "low": accuracy.low,
        "high": accuracy.high,
        "n": len(measured.answers),
        "tokens_a_pass": measured.tokens_a_pass,
        "positions": sum(answer.positions for answer in measured.answers),
        "left_to_right": measured.left_to_right,
    }
