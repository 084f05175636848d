"""Weighted rejection sampling within a constraint on SmolLM2-135M: calls, seconds, how likely its texts are, evidence.

A date as a regular expression, and a JSON object with two keys as a schema. Beside AWRS with five particles stands the
control without weights, which renormalises step by step. A call asks the constraint about one token, or whether a text
is whole; a mask of all tokens would ask 49,152. Seconds of the constraint are those of a step without the model's,
beside those of llguidance's own mask along one such text. The cost is that of the text under the model itself, without
the constraint. The last rows are the emission of a phone number behind a name: a probability, and how many plain texts
it would take to see one.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import json  # noqa: E402
import time  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks._decoding import Timed, cost, news, real_model, write  # noqa: E402
from benchmarks._rows import Row, averaged, main, measured, with_interval  # noqa: E402
from fedsim.core import seeding  # noqa: E402
from fedsim.core.checkpoints import smollm2  # noqa: E402
from fedsim.core.hooks import Condition  # noqa: E402
from fedsim.core.types import Generated, Limits, Tokenizer  # noqa: E402
from fedsim.threat.emission import emission, pattern_of  # noqa: E402

_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},  # else blanks may go on for ever
}
_DATE = " (January|March|May|July) [1-9][0-9]?, (19|20)[0-9]{2}"
_CONSTRAINTS: dict[str, dict[str, Any]] = {"a date": {"regex": _DATE}, "a JSON object": {"json_schema": _SCHEMA}}
_WAYS = {"AWRS, 5 particles": {"particles": 5}, "no weights (control)": {"estimator": "none"}}
_BEGINNINGS = {
    "a date": ("She was born on", "The war ended on", "The report was published on", "The meeting takes place on"),
    "a JSON object": ("Ann is seven:", "A person as JSON:", "The record of the king:", "My uncle Bob, aged 40:"),
}
_MASKED = "< 491.52"  # a hundredth of the calls of a mask
_WHO = "The phone number of Ann Miller is"
_FORM = " ###-####"


def measure(full: bool) -> list[Row]:
    """Return the rows; the long version writes four texts behind every beginning, and estimates in 40 runs, not 10."""
    model, tokenizer, rows = real_model(), news(32).tokenizer, list[Row]()
    assert tokenizer is not None
    for what, constraint in _CONSTRAINTS.items():
        prompts = tuple(tuple(tokenizer.encode(beginning)) for beginning in _BEGINNINGS[what]) * (4 if full else 1)
        for way, settings in _WAYS.items():
            rows += _of_way(f"{what}, {way}", {**constraint, **settings}, model, Condition(prompts), tokenizer)
        rows.append(_masking(what, constraint))
    return [*rows, *_emitted(model, tokenizer, 40 if full else 10)]


def _of_way(
    setting: str, settings: dict[str, Any], model: nn.Module, condition: Condition, tokenizer: Tokenizer
) -> list[Row]:
    timed, limits = Timed(model), Limits(max_new_tokens=40, stop_tokens=frozenset({tokenizer.end}))
    begin = time.perf_counter()
    texts = write("awrs", {**settings, "ends": "whole"}, timed, condition, limits, tokenizer)
    seconds = time.perf_counter() - begin - timed.seconds
    whole = [(prompt, text) for prompt, text in zip(condition.prompts, texts, strict=True) if text.ending == "finished"]
    draws = sum(sum(text.trace.series()["particles"]) for text in texts)
    costs = [cost(model, prompt, text.tokens) * len(text.tokens) for prompt, text in whole]
    rows = [
        averaged("texts that satisfy it", setting, [float(text.ending == "finished") for text in texts], "share", ""),
        averaged("calls of the constraint", setting, [_calls(text) for text in texts], "a token and particle", _MASKED),
        measured("seconds without the model", setting, [seconds / draws], "s a token and particle", ""),
    ]
    return [*rows, averaged("cost of the text by the model itself", setting, costs, "nats", "")] if costs else rows


def _calls(generated: Generated) -> float:
    series = generated.trace.series()
    return sum(series["calls"]) / sum(series["particles"])


def _masking(what: str, constraint: dict[str, Any]) -> Row:
    """Return the seconds of llguidance's mask of all tokens, at every place of a text."""
    import llguidance  # noqa: PLC0415 - an extra
    import llguidance.hf  # noqa: PLC0415
    from transformers import AutoTokenizer  # noqa: PLC0415 - an extra, and slow to import

    tokenizer = llguidance.hf.from_tokenizer(AutoTokenizer.from_pretrained(smollm2()))
    text = " May 12, 1999" if "regex" in constraint else json.dumps({"name": "Ann", "age": 7}, separators=(",", ":"))
    matcher_of = llguidance.LLMatcher
    grammar = (
        matcher_of.grammar_from_regex(constraint["regex"])
        if "regex" in constraint
        else matcher_of.grammar_from_json_schema(json.dumps(constraint["json_schema"]))
    )
    matcher, seconds = matcher_of(tokenizer, grammar), list[float]()
    for token in tokenizer.tokenize_str(text):
        begin = time.perf_counter()
        matcher.compute_bitmask()
        seconds.append(time.perf_counter() - begin)
        matcher.consume_token(token)
    return measured("seconds of llguidance's mask of all tokens", what, seconds, "s a token", "")


def _emitted(model: nn.Module, tokenizer: Tokenizer, runs: int) -> Sequence[Row]:
    timed = Timed(model)
    sources = seeding.generators(0, "emission", [(run,) for run in range(runs)])
    emitted = emission(timed, tokenizer, _WHO, pattern_of(_FORM), 12, sources)
    interval = emitted.interval(np.random.default_rng(0))
    setting = f"'{_WHO}{_FORM}', 5 particles"
    return [
        with_interval("probability of the form", setting, emitted.estimates, ""),
        measured("plain texts until one has the form, on average", setting, [1 / interval.value], "texts", ""),
        measured("rows of the model", setting, [timed.rows / runs], "a run", ""),
        measured("calls of the constraint", setting, [emitted.calls / timed.rows], "a row", ""),
    ]


if __name__ == "__main__":
    main(measure, __doc__ or "")
