"""Unmaskers beside one place a step and a threshold: right answers, passes, places computed, and seconds.

``--part lists`` has operations on short lists and the small model of `fedsim bench model lists`; ``--part credit``
those with many answers, by the model `random-lists`, and how often credit writes another token than the likeliest;
``--part long`` lists of 48 letters to copy or reverse, where a window of masked places is computed between full passes;
``--part reversed`` 24 letters to reverse, with windows down to one place; ``--part wide`` repeats of 16 letters in
texts of 512 tokens; ``--part grammar`` texts of brackets; ``--part records`` JSON of what a prompt lists; ``--part
information`` how rounds follow the information of a text. Models are trained once, into the cache. Seconds are of the
processor, all on one thread; with windows, strategies take turns text by text. Without ``--full`` fewer lists.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import math  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks import _records  # noqa: E402
from benchmarks._brackets import GRAMMAR, PLACES, SIGNS, brackets, is_valid  # noqa: E402
from benchmarks._long_lists import Long, long_lists, repeats, reversed_lists  # noqa: E402
from benchmarks._passes import in_turn, interval  # noqa: E402
from fedsim.bench.parallel import Measured, Network, Strategy, draw_samples, measure  # noqa: E402
from fedsim.bench.training import trained  # noqa: E402
from fedsim.components.unmasker.explore_then_exploit import analyse  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.hooks import Condition, GenerationContext, Unmasker  # noqa: E402
from fedsim.core.types import Generated, Limits, Tokenizer  # noqa: E402
from fedsim.generation import generate  # noqa: E402
from fedsim.metrics.statistics import wilson  # noqa: E402

OPERATIONS = ("reverse", "sort", "replace-index", "replace-random", "shuffle")
THRESHOLDS = (0.9, 0.95, 0.99)


class Line(NamedTuple):
    """What a strategy came to on one kind of text."""

    task: str
    strategy: str
    right: str
    passes: str
    positions: str
    seconds: str


def strategies() -> list[Strategy]:
    """Return what is compared on short lists."""
    table = [Strategy("one a step", "fixed")]
    for threshold in THRESHOLDS:
        table.append(Strategy(f"threshold {threshold}", "threshold", {"threshold": threshold}))
        table.append(Strategy(f"credit {threshold}", "credit-decoding", {"threshold": threshold}))
        free = {"threshold": threshold, "form": "tuning-free"}
        table.append(Strategy(f"credit {threshold}, tuning-free", "credit-decoding", free))
    table.append(Strategy("explore, 1 place", "explore-then-exploit", {}))
    table.append(Strategy("explore, 4 branches", "explore-then-exploit", {"branches": 4}))
    return table


def short_lists(count: int) -> list[Line]:
    """Measure every strategy on every operation."""
    solver, lines = Network(trained("lists").model), list[Line]()
    for operation in OPERATIONS:
        samples = draw_samples(operation, [3, 4, 5, 6], count, 1)
        for strategy in strategies():
            begin = time.process_time()
            measured = measure(strategy, solver, samples, 0)
            seconds = time.process_time() - begin
            passes, positions = _means(measured)
            right = _share(sum(answer.is_right for answer in measured.answered), count)
            lines.append(Line(operation, strategy.label, right, f"{passes:.2f}", f"{positions:.1f}", f"{seconds:.2f}"))
    return lines


def credited(count: int) -> list[Line]:
    """Compare credit with a threshold where answers are many, and count tokens that were not the likeliest."""
    model, lines = trained("random-lists").model, list[Line]()
    solver = Network(model)
    compared = [one_strategy for one_strategy in strategies() if one_strategy.name in ("threshold", "credit-decoding")]
    for operation in ("replace-random", "shuffle"):
        samples = draw_samples(operation, [3, 4], count, 1)
        for strategy in compared:
            begin = time.process_time()
            measured = measure(strategy, solver, samples, 0)
            seconds = time.process_time() - begin
            passes, positions = _means(measured)
            places = solver.tokenizer.answer_length
            tokens = [others(strategy.make(places), model, solver.prompt(sample), places) for sample in samples]
            words = _share(sum(answer.is_right for answer in measured.answered), count)
            words += f"; other than the likeliest {_share(sum(tokens), count * places)}"
            lines.append(Line(operation, strategy.label, words, f"{passes:.2f}", f"{positions:.1f}", f"{seconds:.2f}"))
    return lines


@torch.no_grad()
def others(method: Unmasker[Any, Any], model: nn.Module, prompt: tuple[int, ...], places: int) -> int:
    """Return how many tokens of an answer were not the model's likeliest when they were written."""
    context = GenerationContext((torch.Generator().manual_seed(0),), Limits(max_new_tokens=places))
    state, count = method.start(model, Condition((prompt,)), context), 0
    while state.masked[0]:
        likeliest = method.place_scores(model, state)[0].argmax(-1).tolist()
        after, _ = method.step(model, state, context)
        written = set(state.masked[0]) - set(after.masked[0])
        count += sum(after.tokens[0][place] != likeliest[place] for place in written)
        state = after
    return count


def windows(long: Long, sizes: Sequence[tuple[int, int, int]]) -> list[Line]:
    """Compare full passes, one a step and by a threshold, with windows (W, A, R), one text at a time, in turns."""
    settings: list[tuple[str, str, dict[str, Any]]] = [
        ("one a step", "fixed", {}),
        ("threshold 0.9", "threshold", {"threshold": 0.9}),
    ]
    for window, active, refresh in sizes:
        chosen = {"window": window, "active": active, "refresh": refresh}
        settings.append((f"window {window}, active {active}, refresh {refresh}", "window-diffusion", chosen))
    ways = [_writer(long.model, name, chosen, long.answers.shape[1]) for _, name, chosen in settings]
    done = in_turn(ways, list(enumerate(map(tuple, long.prompts.tolist()))))
    return [_window_line(long, label, each, done[0]) for (label, _, _), each in zip(settings, done, strict=True)]


Written = tuple[Generated, float]


def _window_line(long: Long, label: str, done: Sequence[Written], plain: Sequence[Written]) -> Line:
    count, answers = len(done), long.answers.tolist()
    right = sum(list(text.tokens) == answer for (text, _), answer in zip(done, answers, strict=True))
    same = sum(text.tokens == other.tokens for (text, _), (other, _) in zip(done, plain, strict=True))
    positions = sum(sum(text.trace.series()["positions"]) for text, _ in done) / count
    passes = sum(len(text.trace.tokens) for text, _ in done) / count
    seconds, others = [spent for _, spent in done], [spent for _, spent in plain]
    low, high = interval(others, seconds)
    faster = statistics.median(others) / statistics.median(seconds)
    letters = _letters(done, [tuple(answer) for answer in answers])
    words = (
        f"{_share(right, count)}, of the letters {letters:.2%}; as one a step {_share(same, count)}, of the letters "
    )
    words += f"{_letters(done, [text.tokens for text, _ in plain]):.2%}"
    spent = f"{sum(seconds) / count:.3f} a text, {faster:.2f} times faster [{low:.2f}, {high:.2f}]"
    tokens = long.prompts.shape[1] + long.answers.shape[1]
    return Line(f"{tokens} tokens, n = {count}", label, words, f"{passes:.1f}", f"{positions:.0f}", spent)


def _letters(done: Sequence[Written], wanted: Sequence[tuple[int, ...]]) -> float:
    """Return the share of letters that are the wanted ones."""
    pairs = [
        letter == other
        for (text, _), answer in zip(done, wanted, strict=True)
        for letter, other in zip(text.tokens, answer, strict=True)
    ]
    return sum(pairs) / len(pairs)


def _writer(
    model: nn.Module, name: str, settings: dict[str, Any], places: int
) -> Callable[[tuple[int, tuple[int, ...]]], Written]:
    method = registry.get("component", name)
    unmasker = method.make(method.config.model_validate(settings)).named(name)

    def write(numbered: tuple[int, tuple[int, ...]]) -> Written:
        row, prompt = numbered
        source = seeding.generators(0, "unmaskers", [(row,)])
        begin = time.process_time()
        (text,) = generate(unmasker, model, Condition((prompt,)), Limits(max_new_tokens=places), source)
        return text, time.process_time() - begin

    return write


class Language(NamedTuple):
    """A model with a grammar, and what it is asked.

    Attributes:
        task: for the lines.
        signs: one token a sign.
        prompts: as many as texts are drawn.
        places: of each text.
        is_valid: whether a text belongs to the grammar.
        answers: texts that are asked for; None where any text will do.
        agree: whether a text says what an answer says.
    """

    task: str
    model: nn.Module
    signs: Tokenizer
    grammar: str
    prompts: tuple[tuple[int, ...], ...]
    places: int
    is_valid: Callable[[str], bool]
    answers: tuple[str, ...] | None = None
    agree: Callable[[str, str], bool] = str.__eq__


def of_brackets(count: int) -> Language:
    """Return brackets, which nobody asks for."""
    return Language("brackets", brackets(), SIGNS, GRAMMAR, ((),) * count, PLACES, is_valid)


def of_records(count: int) -> Language:
    """Return objects with what a prompt lists."""
    generator, signs = seeding.generator(1, "records"), _records.SIGNS
    pairs = [_records.draw(generator) for _ in range(count)]
    return Language(
        "records",
        _records.records(),
        signs,
        _records.GRAMMAR,
        tuple(tuple(signs.encode(question)) for question, _ in pairs),
        _records.PLACES,
        lambda text: _records.read(text) is not None,
        tuple(answer for _, answer in pairs),
        lambda text, answer: _records.read(text) == _records.read(answer),
    )


def grammars(language: Language) -> list[Line]:
    """Compare texts with and without a grammar, drawn at temperature 1 in random order."""
    random_order: dict[str, Any] = {"temperature": 1.0, "confidence": "random"}
    lines = list[Line]()
    for at_once in (1, 2, 4):
        plain = {**random_order, "steps": language.places // at_once}
        bound = {**random_order, "at_once": at_once, "grammar": language.grammar}
        for name, settings in (("fixed", plain), ("cfg-constrained", bound)):
            lines.append(_of_language(language, name, settings, f"{name}, {at_once} a step"))
    return lines


def _of_language(language: Language, name: str, settings: dict[str, Any], label: str) -> Line:
    method, count, end = registry.get("component", name), len(language.prompts), language.signs.end
    assert end is not None, "signs end texts"
    decoder = method.make(method.config.model_validate(settings))
    limits = Limits(max_new_tokens=language.places, stop_tokens=frozenset({end}))
    sources = seeding.generators(0, language.task, [(row,) for row in range(count)])
    begin = time.process_time()
    generated = generate(
        decoder, language.model, Condition(language.prompts), limits, sources, at_once=32, tokenizer=language.signs
    )
    seconds = time.process_time() - begin
    texts = [language.signs.decode([token for token in text.tokens if token != end]) for text in generated]
    series = [text.trace.series() for text in generated]
    checks, rejected = (sum(sum(each.get(key, ())) for each in series) / count for key in ("calls", "rejected"))
    words = f"valid {_share(sum(map(language.is_valid, texts)), count)}; {rejected:.2f} rejected, "
    words += f"{checks:.1f} checks a text"
    if language.answers is not None:
        pairs = list(zip(texts, language.answers, strict=True))
        words += f"; as asked {_share(sum(language.agree(*pair) for pair in pairs), count)}, sign by sign "
        words += _share(sum(text == answer for text, answer in pairs), count)
    passes = sum(len(text.trace.tokens) for text in generated) / count
    positions = sum(sum(each["positions"]) for each in series) / count
    return Line(language.task, label, words, f"{passes:.2f}", f"{positions:.0f}", f"{seconds:.2f}")


def information(count: int) -> list[str]:
    """Say how rounds follow the information of a text, under a threshold and exploring."""
    model, table = trained("lists").model, list[str]()
    solver = Network(model)
    samples = [sample for operation in OPERATIONS for sample in draw_samples(operation, [3, 4, 5, 6], count, 2)]
    method = registry.get("component", "explore-then-exploit")
    for label, settings in (("threshold 0.9", {"explored": 0}), ("explore, 1 place", {})):
        unmasker = method.make(method.config.model_validate(settings))
        pairs = [_rounds(unmasker, model, solver.prompt(sample)) for sample in samples]
        both = torch.tensor(pairs, dtype=torch.double).T
        slope = float(torch.cov(both)[0, 1] / both[0].var())
        correlation = float(torch.corrcoef(both)[0, 1])
        low, high = (math.tanh(math.atanh(correlation) + bound / (len(pairs) - 3) ** 0.5) for bound in (-1.96, 1.96))
        table.append(
            f"{label}: {slope:+.3f} rounds a nat, correlation {correlation:.3f} [{low:.3f}, {high:.3f}] (Fisher), "
            f"n = {len(pairs)}"
        )
    return table


@torch.no_grad()
def _rounds(method: Any, model: nn.Module, prompt: tuple[int, ...]) -> tuple[float, int]:
    """Return the information of a text and its rounds."""
    context = GenerationContext((torch.Generator().manual_seed(0),), Limits(max_new_tokens=8))
    state = method.start(model, Condition((prompt,)), context)
    while state.masked[0]:
        state, _ = method.step(model, state, context)
    analysed = analyse(state.rounds[0])
    return analysed.information, analysed.rounds


def _means(measured: Measured) -> tuple[float, float]:
    """Return passes and places computed, of an answer."""
    count = len(measured.answered)
    return sum(answer.passes for answer in measured.answered) / count, sum(
        answer.positions for answer in measured.answered
    ) / count


def _share(right: int, count: int) -> str:
    bounds = wilson(right, count)
    return f"{bounds.value:.1%} [{bounds.low:.1%}, {bounds.high:.1%}]"


def main() -> None:
    """Print the table of a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("lists", "credit", "long", "reversed", "wide", "grammar", "records", "information")
    parser.add_argument("--part", choices=parts, default="lists")
    parser.add_argument("--full", action="store_true", help="more lists")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    lines: list[Line] = []
    if chosen.part == "lists":
        lines = short_lists(200 if chosen.full else 40)
    elif chosen.part == "credit":
        lines = credited(200 if chosen.full else 40)
    elif chosen.part == "long":
        lines = windows(long_lists(100 if chosen.full else 20), [(12, 4, 6), (24, 8, 12), (2, 2, 6)])
    elif chosen.part == "reversed":
        lines = windows(reversed_lists(100 if chosen.full else 40), [(12, 4, 6), (4, 2, 6), (2, 2, 6), (1, 1, 6)])
    elif chosen.part == "wide":
        lines = windows(repeats(100 if chosen.full else 20), [(64, 16, 32), (128, 32, 32)])
    elif chosen.part == "grammar":
        lines = grammars(of_brackets(400 if chosen.full else 100))
    elif chosen.part == "records":
        lines = grammars(of_records(400 if chosen.full else 100))
    else:
        print("\n".join(information(40 if chosen.full else 10)))
        return
    print("| task | strategy | right, 95 % | passes a text | places computed | seconds |")
    print("|---|---|---|---|---|---|")
    for line in lines:
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
