"""What hiding a decoder's traces costs in tokens a second, and what it leaves of the prompt.

The protocol of `side_channels`: 50 prompts with 30 texts each, and under every mitigation of the registry the bits that
one figure of the packets, or of the work, says of the prompt. The clock is this decoder's own: 50 texts are written one
at a time, on one thread. Assumption: a text lasts as many steps as were taken or are shown, whichever are more, each as
long as the mean of those that were measured, or as the slowest but one in a hundred where the work is hidden too, and
the network is faster than that. Tokens are those that the user gets. Means with 95 % intervals by bootstrap over the
prompts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, averaged, of_interval
from benchmarks.side_channels import Arm, arm, arms_of, decoders
from fedsim.core import registry, seeding
from fedsim.core.hooks import Condition, Decoder, Mitigation
from fedsim.core.types import Generated, TraceView
from fedsim.generation import stream, veil
from fedsim.record import Finding
from fedsim.threat.observe_trace import observe_trace
from fedsim.threat.side_channels import Judging, Speech, TraceInquiry, judge
from fedsim.threat.trace_study import Speaker, Tokens

_LEAKING = ("speculative", "aded", "dynamic-exit", "cntp", "awrs", "sure-spans")
_VIEWS: tuple[TraceView, ...] = ("counts", "work")
_SLOWEST = 0.99


@dataclass(frozen=True)
class Clock:
    """Seconds of a step of one decoder: the mean, the slowest but one in a hundred, and how many were measured."""

    mean: float
    slowest: float
    steps: int


def clock(speaker: Speaker, prompts: Sequence[Tokens]) -> Clock:
    """Write a text behind each prompt, one at a time, and return what its steps took.

    Seconds are those of the processor: of one thread on a quiet machine the same as by the clock.
    """
    sources = seeding.generators(speaker.seed, "clock", [(row,) for row in range(len(prompts))])
    condition = Condition(tuple(prompts))
    seconds, begin = list[float](), time.process_time()
    with seeding.isolate_randomness(speaker.seed):
        for piece in stream(
            speaker.decoder, speaker.model, condition, speaker.limits, sources, at_once=1, tokenizer=speaker.tokenizer
        ):
            now = time.process_time()
            if piece.tokens:
                seconds.append(now - begin)
            begin = now
    return Clock(float(np.mean(seconds)), float(np.quantile(seconds, _SLOWEST)), len(seconds))


def paces(before: Sequence[Generated], after: Sequence[Generated], about: Sequence[int], step: float) -> list[float]:
    """Return the tokens a second of the texts about each thing, in order.

    Args:
        before: as they were written.
        after: as they are seen.
        about: what each is about.
        step: seconds of a step.
    """
    tokens, steps = dict[int, int](), dict[int, int]()
    for text, shown, name in zip(before, after, about, strict=True):
        got = min(sum(text.trace.tokens), sum(shown.trace.tokens))
        lasts = max(len(text.trace.tokens), len(shown.trace.tokens))
        tokens[name], steps[name] = tokens.get(name, 0) + got, steps.get(name, 0) + lasts
    return [tokens[name] / (steps[name] * step) for name in sorted(tokens)]


@experiment("trace-mitigations", minutes=15, page="attacks/side-channels")
def trace_mitigations(_budget: Budget) -> Cells:
    """Return a cell for each decoder that leaks."""
    return {name: partial(_rows_of, name, decoder) for decoder in decoders(_LEAKING) for name in arms_of(decoder.name)}


def _rows_of(name: str, decoder: Decoder[Any, Any]) -> Iterator[Row]:
    one = arm(name, decoder, "prompts")
    yield from rows(one, one.setting.judging)


def rows(arm_of_decoder: Arm, judging: Judging) -> Iterator[Row]:
    """Yield the rows of a decoder without a mitigation, and of one or two settings of each that the registry has."""
    speaker, material = arm_of_decoder.speaker, arm_of_decoder.setting.material
    speech, pace_clock = speaker.speech("bits", material), clock(speaker, material.prompts)
    plain = paces(speech.texts, speech.texts, speech.truth, pace_clock.mean)
    free = tuple(_bits(speech, view, judging) for view in _VIEWS)
    yield from _shown(f"{arm_of_decoder.name}, no mitigation", pace_clock.mean, plain, plain, free)
    for mitigation in _mitigations():
        source = seeding.generator(judging.seed, f"mitigation {mitigation.name}")
        shown = veil(mitigation, speech.texts, source)
        bits = tuple(
            unhidden if _looks_alike(speech, shown, view) else _bits(speech.of(shown), view, judging)
            for view, unhidden in zip(_VIEWS, free, strict=True)
        )
        steps = {"": pace_clock.mean, ", steps as long as the slowest": pace_clock.slowest}
        for words, step in [*steps.items()][: 1 + mitigation.hides_work]:
            pace = paces(speech.texts, shown, speech.truth, step)
            yield from _shown(f"{arm_of_decoder.name}, {mitigation.name}{words}", step, pace, plain, bits)


def _shown(
    setting: str, step: float, pace: Sequence[float], plain: Sequence[float], bits: Sequence[Finding]
) -> Iterator[Row]:
    yield Row("a step", setting, 1000 * step, "ms")
    yield averaged("pace", setting, pace, "tokens/s")
    share_of_plain = [hidden / unhidden for hidden, unhidden in zip(pace, plain, strict=True)]
    yield averaged("pace over that without", setting, share_of_plain, "")
    for view, finding in zip(_VIEWS, bits, strict=True):
        name = f"about the prompt by {view}"
        if finding.value is None:
            yield Row(name, setting, 0.0, "bits", n=0, note=finding.failure or "")
            continue
        yield of_interval(name, setting, finding.value, "bits", note=f"p {finding.p:.2f}")


def _looks_alike(speech: Speech, shown: Sequence[Generated], view: TraceView) -> bool:
    pairs = zip(speech.texts, shown, strict=True)
    return all(observe_trace(before, [view]) == observe_trace(after, [view]) for before, after in pairs)


def _bits(speech: Speech, view: TraceView, judging: Judging) -> Finding:
    method = registry.get("trace", "trace-figures")
    attack = method.make(method.config()).named("trace-figures")
    return judge(speech, TraceInquiry(attack, f"trace-figures, {view}", view), judging)


def _mitigations() -> Iterator[Mitigation[Any]]:
    """Yield every mitigation with its defaults."""
    for name, method in sorted(registry.methods("component").items()):
        if method.hook == "mitigation":
            made = method.make(method.config()).named(name)
            assert isinstance(made, Mitigation), "its hook says so"
            yield made
