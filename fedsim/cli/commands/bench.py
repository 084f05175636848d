"""`fedsim bench parallel` and `fedsim bench model`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fedsim.cli.commands._console import Commands, OneCommand, app, say, screen
from fedsim.core.errors import FedsimError, nearest

if TYPE_CHECKING:
    from fedsim.bench.parallel import Measured, Solver, Strategy
    from fedsim.metrics.statistics import Interval

_AT_ONCE = (1, 2, 4, 8)
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
        str | None, typer.Option(help="an unmasker of `fedsim list components`; absent: the plain ones")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="one setting of the unmasker")
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
    seed: Annotated[int, typer.Option(min=0, help="of the lists and of what is drawn")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say what several tokens a step cost on lists, puzzles and sentences: exactly, and with an unmasker."""
    from fedsim.bench.parallel import OTHERS, draw, measure
    from fedsim.bench.theory import analyse, mean_loss

    if shortest > longest:
        raise FedsimError(f"--shortest is {shortest} and --longest {longest}: expected at most as many.")
    if places is not None and (model != "table" or places <= longest):
        raise FedsimError(f"--places is for the exact model, expected more than the {longest} letters of --longest.")
    operations = _operations(model, operation or [])
    others = [own for own in operations if own in OTHERS]
    solver = _exact(places, written, others) if model == "table" else _network(model, written)
    strategies = _strategies(decoder, set_ or [], grid)
    exact = analyse(longest, [own for own in _AT_ONCE if own <= longest])
    asked = {own: draw(own, range(shortest, longest + 1), samples, seed) for own in operations}
    losses = {own: mean_loss([list(each.answers()) for each in asked[own]]) for own in others}
    if not as_json:
        _show_exact(longest, [own for own in exact if own.operation in operations])
        _show_losses(losses)
    found: list[Measured] = []
    for own, questions in asked.items():
        of_operation = [measure(strategy, solver, questions, seed) for strategy in strategies]
        found += of_operation
        if not as_json:
            _show_measured(own, of_operation)
    if as_json:
        typer.echo(json.dumps(_as_told(exact, losses, found), indent=1))


@bench.command(cls=OneCommand, epilog="Example: fedsim bench model lists")
def model(
    name: Annotated[
        str,
        typer.Argument(
            help="lists, random-lists, news, digit-grids, digit-grids-unfrozen, rcp-50, rcp-37, digits-unet, "
            "photographs-unet, digits-patches, digits-patches-draft, photographs-patches or photographs-patches-draft; "
            "each is trained once and kept"
        ),
    ],
    samples: Annotated[int, typer.Option(min=1, help="lists or questions of each kind that it is tested on")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="of what it is tested on")] = 1,
) -> None:
    """Train a small model of texts, of images, or of both from scratch, once, and print how good it is."""
    from fedsim.bench import denoisers, pruning, training, unfreezing

    recipes = {**training.RECIPES, **denoisers.RECIPES}
    of_grids = ["digit-grids", unfreezing.NAME, *pruning.RECIPES]
    if name not in {*recipes, *of_grids}:
        raise FedsimError(f"there is no small model '{name}'.{nearest(name, [*recipes, *of_grids])}")
    if name in of_grids:
        _show_grids(name, samples, seed)
        return

    def tell(step: int, loss: float) -> None:
        print(f"  step {step} of {recipes[name].steps}: loss {loss:.3f}", file=sys.stderr, flush=True)

    own = denoisers.trained(name, tell) if name in denoisers.RECIPES else training.trained(name, tell)
    say(f"{name}: {recipes[name].holds}; {sum(p.numel() for p in own.model.parameters()):,} parameters")
    if isinstance(own, denoisers.Denoiser):
        _show_loss(own.model, own.data, denoisers.task_of(denoisers.RECIPES[name]), seed)
        say(f"kept in {own.folder}")
    elif recipes[name].data == "list-operations":
        _show_accuracies(name, samples, seed)
    else:
        _show_bound(own.model, own.data, seed)


def _show_grids(name: str, samples: int, seed: int) -> None:
    from fedsim.bench import grid_accuracy, grids, pruning, unfreezing

    def tell(stage: str, step: int, of: int, loss: float) -> None:
        print(f"  {stage}, step {step} of {of}: loss {loss:.3f}", file=sys.stderr, flush=True)

    def tell_share(step: int, loss: float, share: float) -> None:
        done = f"  step {step} of {pruning.RECIPES[name].steps}: loss {loss:.3f}"
        print(f"{done}, a layer reads {share:.0%} of the visual tokens", file=sys.stderr, flush=True)

    wholes = {"digit-grids": grids, unfreezing.NAME: unfreezing}
    model = wholes[name].trained(tell) if name in wholes else pruning.trained(name, tell_share)
    say(f"{name}: questions about grids of digits; {sum(p.numel() for p in model.parameters()):,} parameters")
    table = Table(box=None)
    for label in ("question", "right", "95 %", "image black", "usual answer", "several"):
        table.add_column(label, no_wrap=True)
    for kind in (*grid_accuracy.ASKED, "list") if name == unfreezing.NAME else grid_accuracy.ASKED:
        found = grid_accuracy.accuracy(model, kind, samples, seed)
        several = f"{100 * found.several.value:.1f}" if found.several else ""
        shares = (f"{100 * own:.1f}" for own in (found.blind.value, found.majority))
        table.add_row(kind, f"{100 * found.right.value:.1f}", _bounds(found.right), *shares, several)
    say(f"Right answers in % to {samples} questions of each kind about unseen digits; with a black image; share of the")
    say("most frequent answer; and where the digit that is counted occurs more than once.")
    screen.print(table)


def _show_accuracies(name: str, samples: int, seed: int) -> None:
    from fedsim.bench.parallel import Strategy, draw_samples, measure
    from fedsim.bench.training import RECIPES, lengths

    strategies = [Strategy(f"{own} a step", "fixed", {}, own) for own in _AT_ONCE]
    strategies.append(Strategy("threshold 0.9", "threshold"))
    table = Table(box=None)
    table.add_column("operation", no_wrap=True)
    for label in ("1", "95 %", "2", "4", "8", "0.9", "passes"):
        table.add_column(label, no_wrap=True)
    for operation in _operations(name, []):
        lists = draw_samples(operation, lengths(RECIPES[name]), samples, seed)
        found = [measure(own, _network(name), lists, seed) for own in strategies]
        passes = sum(own.passes for own in found[-1].answered) / samples
        first, *others = [own.accuracy for own in found]
        interval = _bounds(first)
        shares = (f"{100 * own.value:.1f}" for own in others)
        table.add_row(operation, f"{100 * first.value:.1f}", interval, *shares, f"{passes:.2f}")
    say(f"Right answers in % among {samples} new lists: 1, 2, 4 and 8 places a step, the surest first,")
    say("and a threshold of 0.9 with its mean passes.")
    screen.print(table)


def _bounds(share: Interval) -> str:
    assert share.low is not None, "a share has an interval"
    assert share.high is not None, "a share has an interval"
    return f"{100 * share.low:.1f}-{100 * share.high:.1f}"


def _show_bound(model: Any, data: Any, seed: int) -> None:
    import math

    import torch

    from fedsim.core import registry, seeding

    method = registry.get("task", "masked-diffusion")
    with torch.no_grad():
        found = method.make(method.config()).evaluate(model, data, seeding.generator(seed, "testing"))
    nats = found["test_loss"]
    say(f"bound on held-out text: {nats:.3f} nats ({nats / math.log(2):.3f} bits) a token")
    say(f"masked tokens that are guessed: {found['test_accuracy']:.1%}")


def _show_loss(model: Any, data: Any, task: Any, seed: int) -> None:
    import torch

    from fedsim.core import seeding

    seen = replace(data, test=next(data.train.split(len(data.test))))
    with torch.no_grad():
        found, known = (task.evaluate(model, own, seeding.generator(seed, "testing")) for own in (data, seen))
    say(f"denoising loss of test images: {found['test_denoising_loss']:.4f}")
    say(f"the same of as many training images: {known['test_denoising_loss']:.4f}")


def _operations(model: str, asked: Sequence[str]) -> list[str]:
    from fedsim.bench.parallel import OTHERS
    from fedsim.bench.training import RECIPES
    from fedsim.data._lists import OPERATIONS

    usual: Sequence[str] = OPERATIONS
    if model != "table":
        settings = RECIPES[model].settings if model in RECIPES else {}
        usual = [own for own in OPERATIONS if own in settings.get("operations", ())]
    known = [*usual, *OTHERS] if model == "table" else usual
    unknown = [own for own in asked if own not in known]
    if unknown:
        raise FedsimError(f"--operation: model '{model}' knows no '{unknown[0]}'.{nearest(unknown[0], known)}")
    return list(dict.fromkeys(asked)) or list(usual)


def _exact(places: int | None, written: str | None, others: Sequence[str]) -> Solver:
    from fedsim.bench.parallel import Exact, SpelledLists

    if others and (places is not None or written is not None):
        option = "--places" if written is None else "--written"
        raise FedsimError(f"{option} is for operations on lists: '{others[0]}' is none.")
    if written is None:
        return Exact(places)
    if written not in _READINGS:
        raise FedsimError(f"--written is '{written}', expected one of {', '.join(_READINGS)}.")
    if places is not None:
        raise FedsimError("--written has lists as long as they are: leave out --places.")
    return SpelledLists(strict=written == "strict")


def _network(name: str, written: str | None = None) -> Solver:
    from fedsim.bench.parallel import Network
    from fedsim.bench.training import RECIPES, trained

    if written is not None:
        raise FedsimError("--written is for the exact model: leave out --model.")
    of_lists = [own for own, recipe in RECIPES.items() if recipe.data == "list-operations"]
    if name not in of_lists:
        raise FedsimError(f"--model: there is no model '{name}' of lists.{nearest(name, ['table', *of_lists])}")
    return Network(trained(name).model)


def _strategies(decoder: str | None, settings: list[str], wants_grid: bool) -> list[Strategy]:
    from fedsim.bench.parallel import Strategy, grid, usual
    from fedsim.core import registry
    from fedsim.data._lists import ListTokenizer
    from fedsim.scenario.reading import read_settings

    if decoder is None and settings:
        raise FedsimError("--set names a setting of an unmasker: say which one with --decoder.")
    if decoder is None:
        return grid(ListTokenizer().answer_length) if wants_grid else usual(_AT_ONCE[:3])
    known = [own for own, entry in registry.entries("component").items() if entry.hook == "unmasker"]
    if decoder not in known:
        raise FedsimError(f"--decoder: there is no unmasker '{decoder}'.{nearest(decoder, known)}")
    own = read_settings(registry.get("component", decoder), settings)
    return [Strategy(" ".join([decoder, *settings]), decoder, own.model_dump(exclude_unset=True))]


def _show_losses(losses: Mapping[str, tuple[float, float]]) -> None:
    if not losses:
        return
    table = Table("asked", "C in nats", "in one step", box=None)
    for name, (nats, share) in losses.items():
        table.add_row(name, f"{nats:.3f}", f"{share:.2g}")
    say("Exact model: total correlation, and accuracy of all places in one step; means of what is asked.")
    screen.print(table)


def _show_exact(longest: int, exact: Sequence[Any]) -> None:
    if not exact:
        return
    at_once = [own for own in _AT_ONCE if own <= longest]
    table = Table("operation", "C in nats", *(f"{own} a step" for own in at_once), box=None)
    for own in exact:
        table.add_row(own.operation, f"{own.correlation:.3f}", *(f"{share:.4f}" for share in own.accuracies))
    say(f"Exact model, {longest} letters, drawn in random order: total correlation and accuracy.")
    screen.print(table)


def _show_measured(operation: str, found: Sequence[Measured]) -> None:
    from fedsim.bench.parallel import GOOD, best, oracle

    table = Table(operation, "accuracy", "95 %", "tokens a pass", "left to right", box=None)
    for own in found:
        accuracy = own.accuracy
        interval = f"{accuracy.low:.3f} to {accuracy.high:.3f}"
        table.add_row(
            Text(own.strategy.label),
            f"{accuracy.value:.3f}",
            interval,
            f"{own.tokens_a_pass:.2f}",
            f"{own.left_to_right:+.2f}",
        )
    say("")
    screen.print(table)
    if len(found) > 1:
        most, (share, tokens) = best(found), oracle(found)
        say(f"Most tokens a pass at {GOOD:.0%} or more: {'none' if most is None else f'{most:.2f}'}.")
        say(f"The best strategy of each list: {share:.1%} right, {tokens:.2f} tokens a pass.")


def _as_told(
    exact: Sequence[Any], losses: Mapping[str, tuple[float, float]], found: Sequence[Measured]
) -> dict[str, Any]:
    return {
        "exact": [own._asdict() for own in exact],
        "mean_loss": {name: {"correlation": nats, "one_step": share} for name, (nats, share) in losses.items()},
        "measured": list(map(_told, found)),
    }


def _told(own: Measured) -> dict[str, Any]:
    accuracy = own.accuracy
    return {
        "operation": own.operation,
        "strategy": own.strategy.label,
        "accuracy": accuracy.value,
        "low": accuracy.low,
        "high": accuracy.high,
        "n": len(own.answered),
        "tokens_a_pass": own.tokens_a_pass,
        "positions": sum(each.positions for each in own.answered),
        "left_to_right": own.left_to_right,
    }
