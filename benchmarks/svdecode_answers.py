"""Steering vector decoding on a task: sums of two numbers that SmolLM2-135M learns to answer in words.

Questions are "What is 7 plus 12?", answers "nineteen"; numbers go from 1 to 20. The model is tuned on 300 of the 400
pairs with LoRA (rank 8, all four projections of attention) in one pass of 38 steps, on the answers alone; 40 other
pairs find the strength, and the last 60 are asked. Costs are of the answers, in nats a token, gains pair by pair
against the tuned model, with intervals by bootstrap; exact are greedy answers whose line is the right word, with
Wilson's interval. Pace is processor time against the tuned model alone, question by question. Without ``--full`` only
at ten times the paper's rate; with it at the paper's too.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import itertools  # noqa: E402
import random  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._decoding import real_model, write  # noqa: E402
from benchmarks._passes import in_turn  # noqa: E402
from benchmarks._rows import Row, main, measured, of_interval, with_interval  # noqa: E402
from benchmarks._small_language_model import Trainer, choices  # noqa: E402
from fedsim.components.adapter._low_rank import adapters_off  # noqa: E402
from fedsim.components.decoder._steering import Mode, joined, places, steered, strength_of  # noqa: E402
from fedsim.components.decoder.svdecode import AT_ONCE, both  # noqa: E402
from fedsim.core import registry  # noqa: E402
from fedsim.core.checkpoints import smollm2  # noqa: E402
from fedsim.core.hooks import Condition  # noqa: E402
from fedsim.core.losses import IGNORED  # noqa: E402
from fedsim.core.types import Batch, Limits, Tokenizer  # noqa: E402
from fedsim.data._tokenizer import ModelTokenizer  # noqa: E402
from fedsim.metrics.statistics import wilson  # noqa: E402

Pair = tuple[int, int]
TUNED, CALIBRATED, TESTED, BATCH = 300, 40, 60, 8
RATES = (5e-4, 5e-5)
LARGEST, LINE = 20, 5  # of a number; tokens of an answer, its new line among them
CONFIDENCE = 0.1
PACED = 12  # questions whose answers are timed, and tokens of each
MODES: tuple[Mode, ...] = ("mean", "ratio", "search")
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
)
_ONES += "eighteen nineteen"
_TENS = {2: "twenty", 3: "thirty", 4: "forty"}


def word(number: int) -> str:
    """Return a number below fifty in words."""
    ones = _ONES.split()
    if number < len(ones):
        return ones[number]
    tens, rest = divmod(number, 10)
    return _TENS[tens] + (f"-{ones[rest]}" if rest else "")


def question(pair: Pair) -> str:
    """Return what is asked about a pair."""
    return f"What is {pair[0]} plus {pair[1]}?\n"


def pairs() -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Return the pairs for tuning, for the strength, and those that are asked."""
    numbers = range(1, LARGEST + 1)
    every = random.Random(0).sample(list(itertools.product(numbers, numbers)), LARGEST**2)
    return every[:TUNED], every[TUNED : TUNED + CALIBRATED], every[-TESTED:]


def encoded(tokenizer: Tokenizer, questions: Sequence[Pair]) -> Batch:
    """Return questions with their answers; only the tokens of answers count."""
    rows = list[tuple[list[int], int]]()
    for pair in questions:
        begun = tokenizer.encode(question(pair))
        rows.append(([*begun, *tokenizer.encode(word(sum(pair)) + "\n")], len(begun)))
    longest = max(len(tokens) for tokens, _ in rows)
    inputs = torch.zeros(len(rows), longest - 1, dtype=torch.long)
    labels = torch.full_like(inputs, IGNORED)
    for row, (tokens, begun) in enumerate(rows):
        inputs[row, : len(tokens) - 1] = torch.tensor(tokens[:-1])
        labels[row, begun - 1 : len(tokens) - 1] = torch.tensor(tokens[begun:])
    return Batch(inputs, labels)


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    tokenizer = ModelTokenizer(smollm2())
    return [row for rate in (RATES if full else RATES[:1]) for row in rows_of(tokenizer, rate)]


def rows_of(tokenizer: Tokenizer, rate: float) -> Iterator[Row]:
    """Yield what steering gains behind one tuning."""
    some, others, tested_pairs = pairs()
    model = tuned(encoded(tokenizer, some), rate)
    strengths = found_strengths(model, encoded(tokenizer, others))
    paid = costs(model, encoded(tokenizer, tested_pairs), {"tuned": 0.0, **strengths})
    setting = f"rate {rate:g}"
    for name in ("base", "tuned"):
        yield with_interval("cost of the answer", f"{setting}, {name}", paid[name], "nats a token")
    for mode, strength in strengths.items():
        gain = [before - after for before, after in zip(paid["tuned"], paid[mode], strict=True)]
        yield measured("strength", f"{setting}, {mode}", [strength], "", "")
        yield with_interval("gain of steering", f"{setting}, {mode}", gain, "nats a token")
    with adapters_off(model):
        yield exact(f"{setting}, base", model, tokenizer, tested_pairs, 0.0)
    for name, strength in {"tuned": 0.0, **strengths}.items():
        yield exact(f"{setting}, {name}", model, tokenizer, tested_pairs, strength)
    yield pace(setting, model, tokenizer, tested_pairs[:PACED], strengths["search"])


def pace(setting: str, model: nn.Module, tokenizer: Tokenizer, questions: Sequence[Pair], strength: float) -> Row:
    """Return how fast the steered model writes, beside the tuned one alone."""

    def seconds(pair: Pair, weight: float) -> float:
        prompt, begin = Condition((tuple(tokenizer.encode(question(pair))),)), time.process_time()
        write("svdecode", {"strength": weight}, model, prompt, Limits(max_new_tokens=PACED), tokenizer)
        return time.process_time() - begin

    alone, with_base = in_turn([lambda pair: seconds(pair, 0.0), lambda pair: seconds(pair, strength)], questions)
    ratios = [fast / slow for fast, slow in zip(alone, with_base, strict=True)]
    return measured("steered / tuned: tokens a second", setting, ratios, "times", "")


def tuned(examples: Batch, rate: float) -> nn.Module:
    """Return the model behind one pass over the pairs."""
    method = registry.get("component", "lora")
    settings = {"targets": [f"*.{letter}_proj" for letter in "qkvo"], "rank": 8, "alpha": 16.0}
    with_adapters = method.make(method.config.model_validate(settings))
    model = with_adapters.prepare(real_model(examples.inputs.shape[1]), torch.Generator().manual_seed(0))
    trainer = Trainer(model, rate)
    for chosen in choices(len(examples), -(-len(examples) // BATCH), 0, BATCH):
        trainer.step(model, examples.inputs[chosen], examples.labels[chosen])
    return model


def found_strengths(model: nn.Module, examples: Batch) -> dict[Mode, float]:
    """Return the strength of each mode; the models read the pairs once."""
    parts = [places(*scores, CONFIDENCE, refuses=False) for scores in both(model, examples)]
    return {mode: strength_of(joined(parts), mode) for mode in MODES}


def costs(model: nn.Module, examples: Batch, strengths: dict[str, float]) -> dict[str, list[float]]:
    """Return the cost of each answer, a token, under the base and by strength."""
    by_name: dict[str, list[float]] = {name: [] for name in ("base", *strengths)}
    for labels, (scores_of_tuned, base, true) in zip(
        examples.labels.split(AT_ONCE), both(model, examples), strict=True
    ):
        counts = (labels != IGNORED).sum(1).tolist()
        steering = {
            name: steered(scores_of_tuned.double(), base.double(), mu, CONFIDENCE, refuses=False)
            for name, mu in strengths.items()
        }
        for name, scores in {"base": base, **steering}.items():
            by_name[name] += _each(scores, true, counts)
    return by_name


def _each(scores: Tensor, true: Tensor, counts: list[int]) -> list[float]:
    paid = torch.nn.functional.cross_entropy(scores.double(), true, reduction="none")
    return [float(part.mean()) for part in paid.split(counts)]


def exact(setting: str, model: nn.Module, tokenizer: Tokenizer, questions: Sequence[Pair], strength: float) -> Row:
    """Return the share of greedy answers that are right word by word."""
    prompts = Condition(tuple(tuple(tokenizer.encode(question(pair))) for pair in questions))
    written = write("svdecode", {"strength": strength}, model, prompts, Limits(max_new_tokens=LINE), tokenizer)
    right = [is_right(tokenizer.decode(text.tokens), pair) for text, pair in zip(written, questions, strict=True)]
    return of_interval("answers that are exact", setting, wilson(sum(right), len(right)), "share")


def is_right(written: str, pair: Pair) -> bool:
    """Say whether what was written up to the end of the line is the sum in words."""
    return written.partition("\n")[0].strip() == word(sum(pair))


if __name__ == "__main__":
    main(measure, __doc__ or "")
