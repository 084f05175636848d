"""Cost of several tokens per step: exactly, on exact models, and on small trained models.

Operations on lists, puzzles and sentences of ParallelBench. An exact model draws each token from its true marginal; a
small model is trained once and cached. A rule is right if the whole answer is. Paper: Kang et al. 2025, arXiv
2510.04767.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, interval_row
from fedsim.bench import training
from fedsim.bench.parallel import Exact, Network, Solver, SpelledLists, Strategy, draw, measure, oracle
from fedsim.bench.theory import analyse

LETTERS = 8
RANDOM = ("replace-random", "shuffle", "insert-random")
PUZZLES = ("latin-square-3", "latin-square-4", "sudoku", "sentence-easy", "sentence-hard")
SHORT, FULL = 60, 200
STEPS = (1, 2, 4, 8)
GREEDY = tuple(Strategy(f"{count} per step, most confident first", "fixed", {}, count) for count in STEPS)
DRAWN = tuple(
    Strategy(f"{count} per step, random order, T = 1", "fixed", {"temperature": 1.0, "confidence": "random"}, count)
    for count in STEPS
)
THRESHOLD = Strategy("threshold 0.9", "threshold", {"threshold": 0.9})


def exact_values() -> Iterator[Row]:
    """Yield total correlation, accuracy and least loss of each operation on eight letters."""
    steps = (2, 4, 8)
    for operation in analyse(LETTERS, steps):
        setting = f"{operation.operation}, {LETTERS} letters"
        yield Row("total correlation", setting, operation.correlation, "nats")
        for count, value in zip(steps, operation.accuracies, strict=True):
            yield Row(f"right, {count} per step", setting, value, "share")
        for count, value in zip(steps, operation.losses, strict=True):
            yield Row(f"least loss, {count} per step", setting, value, "nats")


def by_strategy(solver: Solver, lengths: range, samples: int) -> Iterator[Row]:
    """Yield accuracy and tokens per pass of each strategy on operations with many answers, and of the best per list."""
    questions = {operation: draw(operation, lengths, samples, 0) for operation in RANDOM}
    strategies = (*DRAWN[:2], GREEDY[1], THRESHOLD)
    measured = {
        name: [measure(strategy, solver, lists, 0) for strategy in strategies] for name, lists in questions.items()
    }
    for number, strategy in enumerate(strategies):
        for name, rows in measured.items():
            yield interval_row(f"{name}, right", strategy.label, rows[number].accuracy, "share")
            yield Row(f"{name}, tokens per pass", strategy.label, rows[number].tokens_a_pass, "", n=samples)
    for name, rows in measured.items():
        right, tokens = oracle(rows)
        yield Row(f"{name}, right", "the best rule for each list", right, "share", n=samples)
        yield Row(f"{name}, tokens per pass", "the best rule for each list", tokens, "", n=samples)


def by_operation(
    solver: Solver, operations: Sequence[str], lengths: range, samples: int, schedules: Sequence[Strategy]
) -> Iterator[Row]:
    """Yield for each operation the accuracy of each schedule, and accuracy and tokens per pass of a threshold."""
    for operation in operations:
        questions = draw(operation, lengths, samples, 0)
        for strategy in schedules:
            accuracy = measure(strategy, solver, questions, 0).accuracy
            yield interval_row(f"right, {strategy.positions_per_step} per step", operation, accuracy, "share")
        measured = measure(THRESHOLD, solver, questions, 0)
        yield interval_row("right, threshold 0.9", operation, measured.accuracy, "share")
        yield Row("tokens per pass, threshold 0.9", operation, measured.tokens_a_pass, "", n=samples)


def trained(name: str, samples: int) -> Iterator[Row]:
    """Yield the rows of a small model on the operations that it was trained on."""
    small = training.load_trained_model(name)
    recipe = training.RECIPES[name]
    operations = sorted(set(recipe.settings["operations"]))
    yield from by_operation(Network(small.model), operations, training.lengths(recipe), samples, GREEDY)


@experiment("parallel-bench", minutes=8, page="masked-diffusion")
def parallel_bench(budget: Budget) -> Cells:
    """Return the cells; the first run also trains the small models."""
    samples = FULL if budget.full else SHORT
    return {
        "exact values": exact_values,
        "exact model": partial(by_strategy, Exact(), range(3, 7), samples),
        "puzzles and sentences": partial(by_operation, Exact(), PUZZLES, range(3, 7), samples, DRAWN),
        "printed lists": partial(by_operation, SpelledLists(strict=True), RANDOM, range(3, 7), samples, DRAWN),
        "small model of lists": partial(trained, "lists", samples),
        "small model of random lists": partial(trained, "random-lists", samples),
    }
