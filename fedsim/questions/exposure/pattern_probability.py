"""Unbiased estimate of the probability that a model generates any string of a pattern after a prefix.

    P = sum over texts s whose decoding begins with a string of the pattern of Pr(s | prefix)

Exposure ranks a secret among other values of its form; P is the probability that a user obtains any of them. P sums
over all tokenisations of a string, exposure uses the tokenizer's. A decoder that weights its texts
(`fedsim.core.hooks.WeightedDecoder`) estimates P from few calls: each run's evidence is unbiased for every number of
particles.
Paper: Lipkin et al. 2025, arXiv 2504.05410.
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
from fedsim.core.errors import FedsimError, did_you_mean
from fedsim.core.hooks import GenerationContext, GenerationInputs, WeightedDecoder
from fedsim.core.types import Limits, Planted, Tokenizer
from fedsim.generation.reading import evaluation_mode
from fedsim.metrics.statistics import mean_interval
from fedsim.record import Interval

_AT_ONCE = 8
_MORE = 2  # additional tokens of other tokenisations of a secret
_SIGNS = {"#": "[0-9]", "?": "[a-z]"}


@dataclass(frozen=True)
class PatternProbability:
    """Estimates of a probability.

    Attributes:
        estimates: an unbiased estimate per run; most may be far below the mean.
        calls: number of calls of the pattern in all runs.
        rows: number of texts evaluated by the model in all runs.
    """

    estimates: tuple[float, ...]
    calls: int
    rows: int

    def interval(self, generator: np.random.Generator, confidence: float = 0.95) -> Interval:
        """Return the mean of the runs with a bootstrap interval over the runs."""
        return mean_interval([[estimate] for estimate in self.estimates], generator, confidence)


def pattern_of(form: str) -> str:
    """Return the regular expression of a secret's form; ``#`` is a digit and ``?`` a small letter."""
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
) -> PatternProbability:
    """Estimate the probability that the completion of a prefix starts with a string of a pattern.

    Args:
        model: causal model, maps tokens (B, T) to scores of the next token (B, T, V); unchanged afterwards.
        tokenizer: the model's tokenizer.
        beginning: prefix of at least one token.
        pattern: regular expression, for example `pattern_of` a secret's form.
        longest: maximum number of tokens of a string; longer strings have probability 0 in the estimate.
        generators: random source of each run.
        particles: number of particles per run.
        decoder: name of a weighting decoder; default: the first registered decoder.

    Raises:
        MissingExtra: a package of the decoder is not installed.
        FedsimError: the model is a masked language model, the pattern or decoder is unknown, no string matches, the
            prefix is empty, or scores are not finite.
    """
    known = tuple(tokenizer.encode(beginning))
    if not known or not generators:
        raise FedsimError("an emission needs a prefix of at least one token, and a generator for every run.")
    # A token may extend beyond the string, so any text may follow.
    name, kind = _weigher(decoder)
    weigher = kind.within(rf"(?:{pattern})[\s\S]*", particles).with_name(name)
    weigher.check(model)
    limits = Limits(max_new_tokens=longest)
    total = PatternProbability((), 0, 0)
    for start in range(0, len(generators), _AT_ONCE):
        chunk = tuple(generators[start : start + _AT_ONCE])
        part = _run(weigher, model, known, GenerationContext(chunk, limits, tokenizer=tokenizer))
        total = PatternProbability(total.estimates + part.estimates, total.calls + part.calls, total.rows + part.rows)
    return total


def emissions(
    model: nn.Module, tokenizer: Tokenizer, planted: Sequence[Planted], runs: int, seed: int
) -> list[tuple[float, ...]]:
    """Return each run's estimate for each secret's form; secrets with equal prefix and form share them.

    Args:
        model: language model in evaluation mode.
        tokenizer: the model's tokenizer.
        planted: the secrets.
        runs: number of runs for each prefix and form.
        seed: seed of all runs.

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


def _weigher(name: str | None) -> tuple[str, type[WeightedDecoder[Any, Any]]]:
    """Return name and class of the weighting decoder with this name, or of the first registered decoder."""
    known = {label: method.derived_from(WeightedDecoder) for label, method in registry.methods("component").items()}
    weighers = {label: kind for label, kind in known.items() if kind is not None}
    chosen = next(iter(weighers), "") if name is None else name
    if chosen not in weighers:
        raise FedsimError(f"decoder: '{chosen}' does not weigh its texts.{did_you_mean(chosen, weighers)}")
    return chosen, weighers[chosen]


def _run(
    weigher: WeightedDecoder[Any, Any], model: nn.Module, known: tuple[int, ...], context: GenerationContext
) -> PatternProbability:
    """Step until all runs have ended, and return their evidence."""
    ended: dict[int, float] = {}
    calls, rows, open_runs = 0, 0, list(range(len(context.generators)))
    with evaluation_mode([*model.modules()]):
        state = weigher.start(model, GenerationInputs((known,) * len(open_runs)), context)
        while True:
            evidence = weigher.log_evidence(state)
            ended |= {
                run: math.exp(log_evidence)
                for run, log_evidence in zip(open_runs, evidence, strict=True)
                if log_evidence is not None
            }
            places = [place for place, log_evidence in enumerate(evidence) if log_evidence is None]
            if not places:
                return PatternProbability(tuple(ended[run] for run in range(len(context.generators))), calls, rows)
            open_runs, state = [open_runs[place] for place in places], state.keep(places)
            generators = tuple(context.generators[run] for run in open_runs)
            state, events = weigher.step(model, state, replace(context, generators=generators))
            calls, rows = calls + sum(event["calls"] for event in events), rows + sum(event["rows"] for event in events)
