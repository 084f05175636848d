"""Cautious next token prediction on SmolLM2-135M: how likely and varied its text is, and how many rows it costs.

Beside sampling with the same temperature and nucleus stands the control that branches where the model is sure. Texts go
on from beginnings of news; n is the texts, and intervals are by bootstrap over them. Rows are texts that the model was
shown, of which it reads what is new. The side channel: rank correlation over texts of the mean number of trials,
which a trace shows, with the cost of the text, which it hides; its interval is by bootstrap. Then sums of two digits
are asked behind four others that are answered; right are those whose line is the sum, with Wilson's interval.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import itertools  # noqa: E402
import random  # noqa: E402
from collections.abc import Sequence  # noqa: E402

import numpy as np  # noqa: E402
from scipy.stats import bootstrap, spearmanr  # noqa: E402

from benchmarks._decoding import beginnings, cost, news, real_model, write  # noqa: E402
from benchmarks._rows import Row, averaged, main, of_interval  # noqa: E402
from fedsim.core.hooks import Condition  # noqa: E402
from fedsim.core.types import Generated, Limits  # noqa: E402
from fedsim.metrics.statistics import wilson  # noqa: E402

_SAMPLING = {"temperature": 0.8, "top_p": 0.9}
_WAYS = {
    "sampling": ("sampled", _SAMPLING),
    "CNTP": ("cntp", _SAMPLING),
    "CNTP where it is sure": ("cntp", {**_SAMPLING, "by": "certainty"}),
}
_BEGINNING, _WRITTEN = 8, 20
_SHOWN = ((2, 3), (4, 1), (7, 5), (6, 9))
_SUMS, _LINE = 30, 4  # tokens of an answer: a blank, two digits, a new line


def measure(full: bool) -> list[Row]:
    """Return the rows; the long version writes 30 texts each way instead of 12."""
    model, data, rows = real_model(), news(32), list[Row]()
    condition = beginnings(data, 30 if full else 12, _BEGINNING)
    limits = Limits(max_new_tokens=_WRITTEN)
    assert data.tokenizer is not None
    for way, (name, settings) in _WAYS.items():
        texts = write(name, settings, model, condition, limits, data.tokenizer)
        costs = [cost(model, prompt, text.tokens) for prompt, text in zip(condition.prompts, texts, strict=True)]
        rows.append(averaged("cost of its own text", way, costs, "nats a token", ""))
        rows.append(averaged("distinct pairs of tokens", way, [_distinct(text.tokens) for text in texts], "share", ""))
        rows.append(averaged("rows of the model", way, [_rows(text) for text in texts], "a token", ""))
        if way == "CNTP":
            rows.append(averaged("steps with trials", way, [_branching(text) for text in texts], "share", ""))
            rows.append(_correlated(way, [_trials(text) for text in texts], costs))
    digits = sums(_SUMS)
    condition = Condition(tuple(tuple(data.tokenizer.encode(question(digit))) for digit in digits))
    limits = Limits(max_new_tokens=_LINE)
    for way, (name, settings) in _WAYS.items():
        texts = write(name, settings, model, condition, limits, data.tokenizer)
        right = [is_sum(data.tokenizer.decode(text.tokens), digit) for text, digit in zip(texts, digits, strict=True)]
        rows.append(of_interval("sums that are right", way, wilson(sum(right), len(right)), "share"))
        rows.append(averaged("rows of the model, of sums", way, [_rows(text) for text in texts], "a token", ""))
    return rows


def sums(count: int) -> list[tuple[int, int]]:
    """Draw different pairs of digits other than those that are shown."""
    digits = range(1, 10)
    every = [pair for pair in itertools.product(digits, digits) if pair not in _SHOWN]
    return random.Random(0).sample(every, count)


def question(digits: tuple[int, int]) -> str:
    """Return the answered sums and the one that is asked."""
    lines = [f"{a} + {b} = {a + b}\n" for a, b in _SHOWN]
    return "".join(lines) + f"{digits[0]} + {digits[1]} ="


def is_sum(written: str, digits: tuple[int, int]) -> bool:
    """Say whether what was written up to the end of the line is the sum."""
    return written.partition("\n")[0].strip() == str(sum(digits))


def _distinct(tokens: Sequence[int]) -> float:
    pairs = list(itertools.pairwise(tokens))
    return len(set(pairs)) / len(pairs)


def _rows(generated: Generated) -> float:
    return sum(generated.trace.series().get("rows", generated.trace.tokens)) / len(generated.tokens)


def _branching(generated: Generated) -> float:
    trials = generated.trace.series()["trials"]
    return sum(count > 1 for count in trials) / len(trials)


def _trials(generated: Generated) -> float:
    trials = generated.trace.series()["trials"]
    return sum(trials) / len(trials)


def _correlated(way: str, trials: Sequence[float], costs: Sequence[float]) -> Row:
    def statistic(some: np.ndarray, others: np.ndarray) -> float:
        return float(spearmanr(some, others)[0])  # type: ignore[arg-type]

    source = np.random.default_rng(0)
    bounds = bootstrap((trials, costs), statistic, paired=True, vectorized=False, method="percentile", rng=source)
    low, high = bounds.confidence_interval
    value = statistic(np.array(trials), np.array(costs))
    return Row(
        "trials against the cost of the text",
        way,
        value,
        "rank correlation",
        low,
        value,
        high,
        len(costs),
        "reported",
        True,
    )


if __name__ == "__main__":
    main(measure, __doc__ or "")
