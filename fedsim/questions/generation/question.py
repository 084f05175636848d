"""generation: measure leakage of a trained model through its generated texts, their traces, and samples.

A decoder generates texts, and attacks with controls analyse their traces; a sampler generates images, which are
compared with the training images.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.errors import FedsimError, reason
from fedsim.core.registry import question
from fedsim.processes.methods import MethodRunner, require_tensor
from fedsim.questions.base import Evidence, Question, QuestionContext
from fedsim.questions.generation import images as sampled_images
from fedsim.questions.generation import texts as written_texts
from fedsim.questions.generation.hooks import TraceAttack
from fedsim.questions.generation.metrics import mean_over_texts
from fedsim.questions.generation.settings import GenerationSettings
from fedsim.questions.generation.side_channels import Answer
from fedsim.questions.generation.types import TraceCase
from fedsim.record import Finding
from fedsim.scenario import Choice
from fedsim.scenario.world import World

_TRACES = "generation/traces"


@final
@question("generation", summary="what do a trained model's generation traces leak?")
class GenerationQuestion(Question[GenerationSettings]):
    """Generates texts or images with the trained model, and runs attacks on their traces."""

    metric: ClassVar[str] = "tokens_per_step"
    title: ClassVar[str] = "What generation gives away"
    summary: ClassVar[str] = (
        "The trained model generated samples, and attackers observed tokens per packet "
        "(counts), the work of each step, its seconds (timing), or the text itself (outputs). "
        "Positive controls know more and must succeed; negative controls have nothing to find "
        "and must stay at chance."
    )
    method: ClassVar[str] = (
        "Which prompt: share of texts with correctly inferred prompt, Wilson interval with "
        "prompts as units. Member: AUC over completions of the candidates' prefixes, half of "
        "them known to the attacker; bootstrap interval. Planted: exposure of a secret among "
        "decoys of its form by the trace after its first half, and the number of secrets that "
        "the decoder generates. Bits: mutual information between the prompt and the most "
        "informative value of the trace, by nearest neighbours; chance is the mean over "
        "shuffled prompts, p is from a permutation test. Mitigations are applied to the "
        "traces, and their cost is counted in steps and tokens."
    )

    @classmethod
    def example(cls) -> Mapping[str, Any]:
        """Return the tables of a scenario with one attack."""
        return {
            "data": {"name": "lee-news", "length": 20, "train": 100, "test": 60},
            "model": {"name": "tiny-llama", "width": 16, "blocks": 1, "hidden": 32},
            "federation": {"algorithm": "fedavg", "clients": 2, "batch_size": 16},
            "generation": {
                "max_new_tokens": 4,
                "texts_per_prompt": 3,
                "candidates": 20,
                "prompts": {"count": 10, "length": 4},
                "attacks": [{"name": "trace-forest", "view": "outputs"}, {"name": "trace-mean", "question": "member"}],
            },
        }

    def check(self, world: World) -> None:
        """Check that the decoder or the sampler runs, and that each attack is applicable."""
        (sampled_images if sampled_images.draws(self.config) else written_texts).check(world)

    def run(self, evidence: Evidence, work: QuestionContext) -> Iterator[Finding]:
        """Yield the summary of the generation, then the findings of all attacks and controls."""
        begin = time.perf_counter()
        try:
            written = self._run_study(evidence, work)
        except (FedsimError, RuntimeError) as error:
            seconds = time.perf_counter() - begin
            yield self._context().model_copy(update={"failure": reason(error), "seconds": seconds})
            return
        if written.traces:
            work.items[_TRACES] = written.traces
        yield self._summary(evidence.world, written, time.perf_counter() - begin)
        yield from self._counts(evidence.world, written)
        for finding in written.findings:
            label = f"{finding.label} ({finding.scope['question']})"
            yield finding.model_copy(update={"label": label, "scope": {**finding.scope, "by": self._decoder_name}})

    def _run_study(self, evidence: Evidence, work: QuestionContext) -> written_texts.GenerationStudy:
        with _open_attacks(work) as answer:
            if sampled_images.draws(self.config):
                return sampled_images.draw(evidence.world, evidence.journal, answer, work.salt)
            return written_texts.speak(evidence.world, evidence.journal, answer, work.salt)

    @property
    def _decoder_name(self) -> str:
        return self.config.decoder.name

    def _context(self) -> Finding:
        decoder = self.config.decoder
        return Finding(
            question="generation",
            label=decoder.name,
            method=decoder.name,
            settings=decoder.settings,
            scope={"by": decoder.name},
            role="context",
            metric="tokens_per_step",
        )

    def _summary(self, world: World, written: written_texts.GenerationStudy, seconds: float) -> Finding:
        """Return the finding with model, decoder, pace and endings of the generated texts."""
        endings = Counter(text.ending for text in written.texts)
        scope = {**self._context().scope, "texts": len(written.texts), **{f"ended {k}": n for k, n in endings.items()}}
        paces = [sum(text.trace.tokens) / len(text.trace.tokens) for text in written.texts if any(text.trace.tokens)]
        draws = np.random.default_rng(seeding.derive(world.scenario.seed, "bootstrap"))
        pace = mean_over_texts(paces, draws, world.scenario.scoring.confidence) if paces else None
        settings = {**self.config.decoder.settings, **written.fitted_settings}
        note = self._note(written, endings, settings)
        update = {"scope": scope, "value": pace, "note": note, "seconds": seconds, "settings": settings}
        return self._context().model_copy(update={**update, "items": _TRACES if written.traces else ""})

    def _counts(self, world: World, written: written_texts.GenerationStudy) -> Iterator[Finding]:
        """Yield the mean of each count of the traces: per token of a text, or per image."""
        draws_images, scoring = sampled_images.draws(self.config), world.scenario.scoring
        traces = [text.trace for text in written.texts if draws_images or any(text.trace.tokens)]
        for name in sorted({name for trace in traces for name in trace.series()}):
            shares = [
                sum(trace.series().get(name, ())) / (1 if draws_images else sum(trace.tokens)) for trace in traces
            ]
            source = np.random.default_rng(seeding.derive(world.scenario.seed, f"bootstrap {name}"))
            value = mean_over_texts(shares, source, scoring.confidence)
            label = f"{name} per {'image' if draws_images else 'token'}"
            yield self._context().model_copy(
                update={"label": label, "metric": "mean_count", "settings": {}, "value": value}
            )

    def _note(self, written: written_texts.GenerationStudy, endings: Counter[str], settings: Mapping[str, Any]) -> str:
        named = ", ".join(
            _format_setting(key, value, key in written.fitted_settings) for key, value in settings.items() if value
        )
        author = f"{self._decoder_name}{f' ({named})' if named else ''}"
        owner = "the global model" if self.config.model == "global" else "the client's model"
        noun = "sample" if sampled_images.draws(self.config) else "text"
        count = f"{len(written.texts):,} {noun}{'' if len(written.texts) == 1 else 's'}"
        ended = ", ".join(f"{count} by {ending}" for ending, count in sorted(endings.items()))
        reasons = " ".join(dict.fromkeys(text.reason for text in written.texts if text.reason))
        return f"{author}, {owner}: {count}; ended {ended}.{f' {reasons}' if reasons else ''}"


@contextmanager
def _open_attacks(work: QuestionContext) -> Iterator[Answer]:
    """Yield the function that runs attacks; an attack starts at its first case and ends with this block."""
    attacks: dict[str, MethodRunner] = {}
    with ExitStack() as started:

        def answer(attack: TraceAttack[Any], case: TraceCase, generator: torch.Generator) -> Tensor:
            settings = attack.config.model_dump(mode="json")
            key = json.dumps([attack.name, settings], sort_keys=True)
            if key not in attacks:
                choice = Choice(name=attack.name, settings=settings)
                attacks[key] = started.enter_context(work.start(choice))
            return require_tensor(attacks[key].call(TraceAttack.__call__, case, generators=[generator]))

        yield answer


def _format_setting(key: str, value: Any, is_fitted: bool) -> str:
    return f"{key} = {value:.4g}, fitted" if is_fitted else f"{key} = {value}"
