"""How likely a model is to write any string of a pattern behind a beginning: an unbiased estimate, beside exposure.

    P = sum over texts s whose decoding begins with a string of the pattern of Pr(s | beginning)

Exposure ranks one secret among others of its form; P says how often a user who asks gets any of them. It sums over
all ways in which tokens spell a string, where exposure takes the tokenizer's. A decoder that weighs its texts
(`fedsim.core.hooks.Weigher`) estimates it from few calls: each run's evidence is unbiased for every number of
particles. Paper: Lipkin et al. 2025, arXiv 2504.05410.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError, nearest
from fedsim.core.hooks import Condition, GenerationContext, Weigher
from fedsim.core.types import Limits, Planted, Tokenizer
from fedsim.generation.reading import evaluating
from fedsim.metrics.statistics import mean_interval
from fedsim.record import Interval

_AT_ONCE = 8
_MORE = 2  # tokens that another spelling of a secret may take
_SIGNS = {"#": "[0-9]", "?": "[a-z]"}


@dataclass(frozen=True)
class Emission:
    """Estimates of a probability.

    Attributes:
        estimates: one a run, each unbiased; most may be far below the mean.
        calls: of the pattern, in all runs.
        rows: texts that the model was shown, in all runs.
    """

    estimates: tuple[float, ...]
    calls: int
    rows: int

    def interval(self, generator: np.random.Generator, confidence: float = 0.95) -> Interval:
        """Return the mean of the runs with its interval, by bootstrap over them."""
        return mean_interval([[estimate] for estimate in self.estimates], generator, confidence)


def pattern_of(form: str) -> str:
    """Return the regular expression of a secret's form; ``#`` stands for a digit and ``?`` for a small letter."""
    return "".join(_SIGNS.get(sign) or re.escape(sign) for sign in form)


def emission(
    model: nn.Module,
    tokenizer: Tokenizer,
    beginning: str,
    pattern: str,
    longest: int,
    generators: Sequence[torch.Generator],
    *,
    particles: int = 5,
    decoder: str | None = None,
) -> Emission:
    """Estimate how likely what the model writes behind a beginning begins with a string of a pattern.

    Args:
        model: tokens (B, T) to scores of the next token (B, T, V). It is left as it was.
        tokenizer: of the model.
        beginning: text of at least one token.
        pattern: regular expression, for example `pattern_of` a secret's form.
        longest: tokens of a string, at most; longer ones count as not written.
        generators: the randomness of each run.
        particles: of each run.
        decoder: name of the one that weighs texts; absent: the first that is registered.

    Raises:
        MissingExtra: a package of the decoder is not installed.
        FedsimError: a model that fills in masked places, no such pattern or decoder, no string follows it, an empty
            beginning, or scores that are no numbers.
    """
    known = tuple(tokenizer.encode(beginning))
    if not known or not generators:
        raise FedsimError("an emission needs a beginning of one token or more, and a generator for every run.")
    # A token may reach beyond the string, so that anything may follow.
    name, kind = _weigher(decoder)
    weigher = kind.within(rf"(?:{pattern})[\s\S]*", particles).named(name)
    weigher.check(model)
    limits = Limits(max_new_tokens=longest)
    total = Emission((), 0, 0)
    for start in range(0, len(generators), _AT_ONCE):
        some = tuple(generators[start : start + _AT_ONCE])
        part = _run(weigher, model, known, GenerationContext(some, limits, tokenizer=tokenizer))
        total = Emission(total.estimates + part.estimates, total.calls + part.calls, total.rows + part.rows)
    return total


def emissions(
    model: nn.Module, tokenizer: Tokenizer, planted: Sequence[Planted], runs: int, seed: int
) -> list[tuple[float, ...]]:
    """Return the estimates for the form of each secret, one a run; secrets of one beginning and form share them.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        planted: the secrets.
        runs: for each beginning and form.
        seed: of all runs.

    Raises:
        MissingExtra: a package of the decoder is not installed.
    """
    estimates: dict[tuple[str, str], tuple[float, ...]] = {}
    for number, secret in enumerate(planted):
        if (secret.prompt, secret.form) in estimates:
            continue
        sources = seeding.generators(seed, "emission", [(number, run) for run in range(runs)])
        longest = len(tokenizer.encode(secret.text)) - len(tokenizer.encode(secret.prompt)) + _MORE
        done = emission(model, tokenizer, secret.prompt, pattern_of(secret.form), longest, sources)
        estimates[secret.prompt, secret.form] = done.estimates
    return [estimates[secret.prompt, secret.form] for secret in planted]


def _weigher(name: str | None) -> tuple[str, type[Weigher[Any, Any]]]:
    """Return name and class of a decoder that weighs texts: the one of that name, or the first."""
    known = {label: method.derived_from(Weigher) for label, method in registry.methods("component").items()}
    weighers = {label: kind for label, kind in known.items() if kind is not None}
    chosen = next(iter(weighers), "") if name is None else name
    if chosen not in weighers:
        raise FedsimError(f"decoder: '{chosen}' does not weigh its texts.{nearest(chosen, weighers)}")
    return chosen, weighers[chosen]


def _run(weigher: Weigher[Any, Any], model: nn.Module, known: tuple[int, ...], context: GenerationContext) -> Emission:
    """Take steps until no run goes on or has room, and return the evidence of each."""
    ended: dict[int, float] = {}
    calls, rows, open_runs = 0, 0, list(range(len(context.generators)))
    with evaluating([*model.modules()]):
        state = weigher.start(model, Condition((known,) * len(open_runs)), context)
        while True:
            evidence = weigher.log_evidence(state)
            ended |= {
                run: math.exp(log_evidence)
                for run, log_evidence in zip(open_runs, evidence, strict=True)
                if log_evidence is not None
            }
            places = [place for place, log_evidence in enumerate(evidence) if log_evidence is None]
            if not places:
                return Emission(tuple(ended[run] for run in range(len(context.generators))), calls, rows)
            open_runs, state = [open_runs[place] for place in places], state.keep(places)
            generators = tuple(context.generators[run] for run in open_runs)
            state, events = weigher.step(model, state, replace(context, generators=generators))
            calls, rows = calls + sum(event["calls"] for event in events), rows + sum(event["rows"] for event in events)
