"""From generated texts to side-channel findings: cases of attacks, ground truth, scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedsim.core import seeding
from fedsim.core.errors import reason
from fedsim.core.hooks import Mitigation
from fedsim.core.types import Generated, TraceView
from fedsim.generation.trace_mitigation import veil
from fedsim.metrics.membership import LOW_FPR, name_of, tpr_at
from fedsim.processes.methods import InProcessRunner, require_tensor
from fedsim.questions.generation import metrics as figures
from fedsim.questions.generation.hooks import TraceAttack
from fedsim.questions.generation.observe import observe_trace
from fedsim.questions.generation.types import TraceCase, TraceQuestion
from fedsim.record import Finding, Interval
from fedsim.threat.answers import check_shape
from fedsim.threat.orders import secret_order

Answer = Callable[[TraceAttack[Any], TraceCase, torch.Generator], Tensor]
"""Runs an attack on a case and returns its answer; raises the attack's exception."""


def answer_here(attack: TraceAttack[Any], case: TraceCase, generator: torch.Generator) -> Tensor:
    """Return an attack's answer, computed in this process."""
    return require_tensor(InProcessRunner(attack).call(TraceAttack.__call__, case, generators=[generator]))


@dataclass(frozen=True)
class GeneratedTexts:
    """Generated texts of one question with their ground truth.

    Attributes:
        question: the question.
        texts: the generated texts.
        truth: per text: index of its prompt; 1 for a member and 0 for a non-member; index of its secret.
        is_known: per text: whether the attacker requested it itself.
        is_secret: per text of question planted: whether it continues the planted secret, not an alternative.
    """

    question: TraceQuestion
    texts: tuple[Generated, ...]
    truth: tuple[int, ...]
    is_known: tuple[bool, ...]
    is_secret: tuple[bool, ...] = ()

    def of(self, texts: Sequence[Generated]) -> GeneratedTexts:
        """Return a copy with other texts."""
        return replace(self, texts=tuple(texts))

    @property
    def seen_truth(self) -> np.ndarray:
        """The ground truth of the texts that the attacker only observes."""
        return np.array([answer for answer, known in zip(self.truth, self.is_known, strict=True) if not known], int)


@dataclass(frozen=True)
class TraceInquiry:
    """An attack with its view.

    Attributes:
        attack: the attack object.
        label: name in the report.
        view: the attack's view of the traces.
        mitigation: mitigation that is applied to the traces; None for none.
    """

    attack: TraceAttack[Any]
    label: str
    view: TraceView
    mitigation: Mitigation[Any] | None = None


@dataclass(frozen=True)
class ScoringOptions:
    """Settings of findings.

    Attributes:
        seed: the scenario's seed.
        confidence: coverage of intervals.
        answer: runs an attack on a case.
        private: data unknown to attacks, which determines the order of the observed texts.
        salt: the run's salt; empty without a salt.
    """

    seed: int = 0
    confidence: float = 0.95
    answer: Answer = answer_here
    private: tuple[Tensor, ...] = ()
    salt: bytes = b""


def case_of(speech: GeneratedTexts, view: TraceView, order: Sequence[int]) -> TraceCase:
    """Build the inputs of an attack under one view; they contain nothing else.

    Args:
        speech: the texts.
        view: the attacker's view of each text.
        order: indices of the observed texts, in the attacker's order.
    """
    observed = [observe_trace(text, [view]) for text in speech.texts]
    seen = [trace for trace, known in zip(observed, speech.is_known, strict=True) if not known]
    truth = [answer for answer, known in zip(speech.truth, speech.is_known, strict=True) if known]
    return TraceCase(
        question=speech.question,
        observations=tuple(seen[place] for place in order),
        known_observations=tuple(trace for trace, known in zip(observed, speech.is_known, strict=True) if known),
        labels=tuple(truth),
    )


def judge(speech: GeneratedTexts, inquiry: TraceInquiry, judging: ScoringOptions) -> Finding:
    """Run an attack and score it; an exception becomes the finding's failure."""
    return _judge(speech, inquiry, judging, "attack")


def negative_control(speech: GeneratedTexts, inquiry: TraceInquiry, judging: ScoringOptions, label: str) -> Finding:
    """Run an attack as a negative control; `label` names the reason in the label."""
    return _judge(speech, replace(inquiry, label=f"{inquiry.label}, {label}"), judging, "negative-control")


def controls(speech: GeneratedTexts, inquiry: TraceInquiry, judging: ScoringOptions) -> Iterator[Finding]:
    """Yield the attack's positive control and its negative control.

    The generated text identifies its prompt, so view `outputs` must succeed; shuffled labels must stay at chance.
    """
    if "outputs" in inquiry.attack.views and speech.question in ("prompt", "bits"):
        seen = replace(inquiry, view="outputs", mitigation=None, label=f"{inquiry.attack.name}, of the text itself")
        yield _judge(speech, seen, judging, "positive-control")
    if speech.question in ("prompt", "member"):
        order = seeding.generator(judging.seed, "shuffled labels")
        shuffled = [speech.truth[int(place)] for place in torch.randperm(len(speech.truth), generator=order)]
        yield negative_control(replace(speech, truth=tuple(shuffled)), inquiry, judging, "labels shuffled")


def _judge(speech: GeneratedTexts, inquiry: TraceInquiry, judging: ScoringOptions, role: Any) -> Finding:
    finding = Finding(
        question="generation",
        label=inquiry.label,
        method=inquiry.attack.name,
        settings=inquiry.attack.config.model_dump(mode="json"),
        scope=about(speech.question, inquiry.view, _describe(inquiry.mitigation)),
        role=role,
        metric=_METRICS[speech.question],
    )
    try:
        return finding.model_copy(update=_score(speech, inquiry, judging))
    except Exception as error:  # an attack may raise any exception
        return finding.model_copy(update={"failure": reason(error)})


def about(question: TraceQuestion, view: str, mitigation: str = "") -> dict[str, str | int | float]:
    """Return the facts of a finding: question, view and mitigation."""
    return {"question": question, "view": view, **({"mitigation": mitigation} if mitigation else {})}


def _score(speech: GeneratedTexts, inquiry: TraceInquiry, judging: ScoringOptions) -> dict[str, Any]:
    cost: dict[str, Interval] = {}
    if inquiry.mitigation is not None:
        source = seeding.generator(judging.seed, f"mitigation {inquiry.mitigation.name}")
        veiled = veil(inquiry.mitigation, speech.texts, source)
        cost, speech = _cost(speech.texts, veiled), speech.of(veiled)
    draws = np.random.default_rng(seeding.derive(judging.seed, f"side channel {inquiry.label} {speech.question}"))
    scores = _SCORES[speech.question](speech, _answers(speech, inquiry, judging), draws, judging.confidence)
    return {**scores, "extra_metrics": {**scores.get("extra_metrics", {}), **cost}}


def _answers(speech: GeneratedTexts, inquiry: TraceInquiry, judging: ScoringOptions) -> np.ndarray:
    """Return the answer for each observed text in the speech's order; the attacker gets a secret order."""
    purpose = f"order of traces {inquiry.label} {speech.question}"
    private = (*judging.private, torch.tensor(speech.truth), *(torch.tensor(text.tokens) for text in speech.texts))
    order = secret_order(len(speech.seen_truth), private, judging.seed, purpose, salt=judging.salt)
    source = seeding.generator(judging.seed, f"trace attack {inquiry.label}")
    answer = judging.answer(inquiry.attack, case_of(speech, inquiry.view, order.tolist()), source)
    check_shape(answer, (len(order), *answer.shape[1:]))
    return answer[order.argsort()].numpy()


def _prompt_accuracy(speech: GeneratedTexts, answer: np.ndarray, draws: np.random.Generator, confidence: float) -> Any:
    """Score the inferred prompt of each text."""
    truth = speech.seen_truth
    accuracy = figures.prompt_accuracy(answer, truth, confidence)
    return {"value": accuracy, "chance_level": 1 / len(set(speech.truth))}


def _trace_auc(speech: GeneratedTexts, answer: np.ndarray, draws: np.random.Generator, confidence: float) -> Any:
    """Score membership inference."""
    is_member = speech.seen_truth == 1
    rates = {name_of(fpr): tpr_at(answer[is_member], answer[~is_member], fpr, confidence) for fpr in LOW_FPR}
    measured = {name: rate for name, rate in rates.items() if rate is not None}
    return {
        "value": figures.trace_auc(answer, is_member, draws, confidence),
        "chance_level": 0.5,
        "extra_metrics": measured,
    }


def _trace_exposure(speech: GeneratedTexts, answer: np.ndarray, draws: np.random.Generator, confidence: float) -> Any:
    """Score each planted secret's rank among the alternatives of its form."""
    secrets, is_own = np.array(speech.truth), np.array(speech.is_secret)
    rows = np.array(
        [[*answer[(secrets == secret) & is_own], *answer[(secrets == secret) & ~is_own]] for secret in set(secrets)]
    )
    exposure, chance = figures.trace_exposure(rows, draws, confidence)
    return {"value": exposure, "chance_level": chance}


def _trace_bits(speech: GeneratedTexts, answer: np.ndarray, draws: np.random.Generator, confidence: float) -> Any:
    """Estimate the mutual information of the best feature and the prompt."""
    bits = figures.trace_bits(answer, speech.seen_truth, draws, confidence)
    return {"value": bits.information, "chance_level": bits.chance, "p_value": bits.p}


_METRICS: dict[TraceQuestion, str] = {
    "prompt": "prompt_accuracy",
    "member": "trace_auc",
    "planted": "trace_exposure",
    "bits": "trace_bits",
}
_SCORES: dict[TraceQuestion, Callable[[GeneratedTexts, np.ndarray, np.random.Generator, float], dict[str, Any]]] = {
    "prompt": _prompt_accuracy,
    "member": _trace_auc,
    "planted": _trace_exposure,
    "bits": _trace_bits,
}


def _cost(before: Sequence[Generated], after: Sequence[Generated]) -> dict[str, Interval]:
    """Return the ratios of steps and of tokens after to before a mitigation."""
    (old_steps, old_tokens), (steps, tokens) = _size(before), _size(after)
    return {
        "step_ratio": figures.times(steps, old_steps, len(after)),
        "token_ratio": figures.times(tokens, old_tokens, len(after)),
    }


def _size(texts: Sequence[Generated]) -> tuple[int, int]:
    return sum(len(text.trace.tokens) for text in texts), sum(sum(text.trace.tokens) for text in texts)


def _describe(mitigation: Mitigation[Any] | None) -> str:
    if mitigation is None:
        return ""
    settings = ", ".join(f"{key} {value}" for key, value in mitigation.config.model_dump(mode="json").items())
    return f"{mitigation.name}{f' ({settings})' if settings else ''}"
