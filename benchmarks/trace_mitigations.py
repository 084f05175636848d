"""What hiding a decoder's traces costs in tokens a second, and what it leaves of the prompt.

The protocol of `side_channels`: 50 prompts with 30 texts each, and under every mitigation of the registry the bits that
one figure of the packets, or of the work, says of the prompt. The clock is this decoder's own: 50 texts are written one
at a time, on one thread. Assumption: a text lasts as many steps as were taken or are shown, whichever are more, each as
long as the mean of those that were measured, or as the slowest but one in a hundred where the work is hidden too, and
the network is faster than that. Tokens are those that the user gets. Means with 95 % intervals by bootstrap over the
prompts.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import json  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks._rows import in_words, mean_in_words  # noqa: E402
from benchmarks.side_channels import Arm, arms, decoders  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.hooks import Condition, Mitigation  # noqa: E402
from fedsim.core.types import Generated, TraceView  # noqa: E402
from fedsim.generation import stream, veil  # noqa: E402
from fedsim.record import Finding  # noqa: E402
from fedsim.threat.observe_trace import observe_trace  # noqa: E402
from fedsim.threat.side_channels import Judging, Speech, TraceInquiry, judge  # noqa: E402
from fedsim.threat.trace_study import Speaker, Tokens  # noqa: E402

_LEAKING = ("speculative", "aded", "del", "cntp", "awrs", "lexical-unit")
_VIEWS: tuple[TraceView, ...] = ("counts", "work")
_SLOWEST = 0.99


@dataclass(frozen=True)
class Clock:
    """Seconds of a step of one decoder: the mean, the slowest but one in a hundred, and how many were measured."""

    mean: float
    slowest: float
    steps: int


class Line(NamedTuple):
    """One mitigation of one decoder.

    Attributes:
        decoder: its name.
        mitigation: with its settings; empty for none.
        step: seconds that each step lasts.
        pace: tokens a second, one a prompt.
        share: of the pace without a mitigation, one a prompt.
        bits: about the prompt, by packets and by work.
    """

    decoder: str
    mitigation: str
    step: float
    pace: list[float]
    share: list[float]
    bits: tuple[Finding, ...]


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


def measure(arm: Arm, judging: Judging) -> Iterator[Line]:
    """Yield the line of a decoder without a mitigation, and one or two for each that the registry has."""
    speaker, material = arm.speaker, arm.setting.material
    speech, pace_clock = speaker.speech("bits", material), clock(speaker, material.prompts)
    plain = paces(speech.texts, speech.texts, speech.truth, pace_clock.mean)
    free = tuple(_bits(speech, view, judging) for view in _VIEWS)
    yield Line(arm.name, "", pace_clock.mean, plain, [1.0] * len(plain), free)
    for mitigation in _mitigations():
        source = seeding.generator(judging.seed, f"mitigation {mitigation.name}")
        shown = veil(mitigation, speech.texts, source)
        bits = tuple(
            unhidden if _looks_alike(speech, shown, view) else _bits(speech.of(shown), view, judging)
            for view, unhidden in zip(_VIEWS, free, strict=True)
        )
        for step in (pace_clock.mean, pace_clock.slowest)[: 1 + mitigation.hides_work]:
            pace = paces(speech.texts, shown, speech.truth, step)
            share = [hidden / open_ for hidden, open_ in zip(pace, plain, strict=True)]
            yield Line(arm.name, mitigation.name, step, pace, share, bits)


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


def as_json(rows: Sequence[Line]) -> str:
    """Return a list of all figures."""
    table = [row._asdict() | {"bits": [one.model_dump(mode="json") for one in row.bits]} for row in rows]
    return json.dumps(table, indent=1)


def as_table(rows: Sequence[Line]) -> str:
    """Return Markdown."""
    head = ("decoder", "mitigation", "a step, ms", "tokens a second", "of that without", "bits, packets", "bits, work")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        pace, share = mean_in_words(row.pace, 0), mean_in_words(row.share, 2)
        cells = [
            row.decoder,
            row.mitigation or "none",
            f"{1000 * row.step:.2f}",
            pace,
            share,
            *map(_in_words, row.bits),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _in_words(finding: Finding) -> str:
    if finding.value is None:
        return f"failed: {finding.failure}"
    return f"{in_words(finding.value, 2)}, p {finding.p:.2f}"


def main() -> None:
    """Run the command line."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--temperature", type=float, default=0.3, help="of decoders that draw")
    parser.add_argument("--decoder", action="append", default=[], help="one of those to compare; absent: all that leak")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    leaking = decoders(chosen.decoder or _LEAKING, [], chosen.temperature)
    rows = [row for arm in arms(False, True, leaking) for row in measure(arm, arm.setting.judging)]
    print(as_json(rows) if chosen.json else as_table(rows))


if __name__ == "__main__":
    main()
