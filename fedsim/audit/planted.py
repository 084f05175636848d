"""Planted secrets: insert canaries into a language model client's texts, train, and measure how well it memorises them.

A secret is a sequence of random tokens of the client's texts. The attacker has the trained model, knows the first half
of a secret, and ranks its second half among random alternatives. Secrets planted 0 times are the control. Secrets
planted often show whether this training memorises at all. Paper: Carlini et al. 2019, arXiv 1802.08232.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.audit.record import AuditArm, AuditPlan
from fedsim.audit.single_client import world_of
from fedsim.audit.subject import Checked
from fedsim.audit.texts import MASK
from fedsim.audit.training import rounds_of
from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.nets.losses import IGNORED
from fedsim.core.time_budget import OutOfTime, TimeBudget, interrupting
from fedsim.core.types import Batch, Tensors, Tokenizer
from fedsim.metrics.exposure import SecretScore
from fedsim.questions.exposure.memorisation import recall
from fedsim.questions.exposure.question import ITEMS, summarise, table_of
from fedsim.record import Finding, RoundRecord
from fedsim.scenario.world import World
from fedsim.threat.uses import count_training

REPETITIONS = (0, 1, 16)
_EACH = 8  # secrets per number of repetitions
_TEXTS = 128  # client texts that are mixed with the secrets
_LENGTH, _SHORTEST = 8, 4  # tokens of a secret; the attacker knows half
_OTHERS = 200
_FEWEST = 3  # secrets per number of repetitions that allow an interval
_PASSES = 4


@dataclass(frozen=True)
class _Secret:  # not `Planted`: a user's tokenizer need not encode its letters and digits
    tokens: tuple[int, ...]
    examples: tuple[int, ...]


def measure(subject: Checked, plan: AuditPlan, arm: AuditArm, seconds: float) -> AuditArm:
    """Train the client on some of its texts and on planted secrets, and add the memorisation findings to its arm.

    Args:
        subject: a causal language model.
        plan: source of the seed.
        arm: source of the batch size.
        seconds: time for training and scoring.

    Raises:
        FedsimError: texts are too short or have too few distinct tokens, or the time was too short.
    """
    source = np.random.default_rng(seeding.derive(plan.seed, "planted secrets"))
    texts, secrets = _planted(subject, source)
    dataset = replace(subject.dataset, train=texts)
    world = world_of(replace(subject, dataset=dataset), plan, min(arm.batch_size, len(texts)))
    scores: list[SecretScore] = []
    budget = TimeBudget.with_wall_limit(seconds)
    with suppress(OutOfTime):
        weights, uses = _train(world, seconds / 2)
        with interrupting(budget.left):
            model, tokenizer = world.models.holding(weights).eval(), _tokenizer(subject)
            alphabet, generator = _alphabet(subject), seeding.generator(plan.seed, "what secrets make a model write")
            for secret in secrets:
                scores.append(_score(model, tokenizer, secret, uses, alphabet, source, generator))
    if len(scores) < _FEWEST * len(REPETITIONS):
        raise FedsimError(f"planted secrets were not measured: {seconds:.0f} s were not enough")
    return arm.with_findings(list(summarise(scores, plan.scoring, plan.seed)), {ITEMS: table_of(scores)})


def sentence_of(findings: Sequence[Finding]) -> str:
    """Return the memorisation result as a sentence or two.

    Undecided if even the most frequently planted secrets are not above the control.
    """
    control, *planted = findings
    remembered = [finding for finding in planted if is_above(finding, control)]
    if planted[-1] not in remembered:
        return (
            f"Undecided what a model remembers: even secrets that were planted {_times(planted[-1:])} are not "
            "ranked above those that were not planted, so this training was too short to remember any."
        )
    rest = [finding for finding in planted if finding not in remembered]
    sentence = f"The trained model remembers secrets that were planted {_times(remembered)}."
    return f"{sentence} Those planted {_times(rest)} are not told from those that were not." if rest else sentence


def is_above(finding: Finding, control: Finding) -> bool:
    """Return whether secrets rank above the unplanted control, with disjoint intervals."""
    if finding.role == "negative-control" or finding.value is None or control.value is None:
        return False
    low, high = finding.value.low, control.value.high
    return low is not None and high is not None and low > high


def _times(planted: Sequence[Finding]) -> str:
    numbers = [finding.scope["repetitions"] for finding in planted]
    return " and ".join("once" if number == 1 else f"{number} times" for number in numbers)


def _alphabet(subject: Checked) -> Tensor:
    """Return the tokens from which secrets are sampled: all distinct tokens of the client's texts except padding."""
    tokens = subject.dataset.train.inputs.unique()
    return tokens[tokens != subject.dataset.spec.padding] if subject.dataset.spec.padding is not None else tokens


def _planted(subject: Checked, source: np.random.Generator) -> tuple[Batch, tuple[_Secret, ...]]:
    """Return some of the client's texts followed by copies that begin with a secret, and the secrets."""
    texts, alphabet = subject.dataset.train, _alphabet(subject)
    length = min(_LENGTH, texts.inputs.shape[1])
    if length < _SHORTEST or len(alphabet) < _LENGTH:
        raise FedsimError(
            f"planted secrets were not measured: texts of {length} tokens, {len(alphabet)} different ones, hold none"
        )
    chosen = torch.from_numpy(source.permutation(len(texts))[:_TEXTS])
    pieces, secrets, first = [texts.select(chosen)], list[_Secret](), len(chosen)
    for copies in REPETITIONS * _EACH:  # alternate repetitions, since the time may end early
        tokens = alphabet[torch.from_numpy(source.integers(len(alphabet), size=length))]
        if copies:
            copied = texts.select(torch.from_numpy(source.integers(len(texts), size=copies)))
            pieces.append(_with_secret(copied, tokens))
        secrets.append(_Secret(tuple(tokens.tolist()), tuple(range(first, first + copies))))
        first += copies
    return Batch.concat(pieces), tuple(secrets)


def _with_secret(texts: Batch, tokens: Tensor) -> Batch:
    """Return texts with their first tokens replaced by the secret; labels are the next tokens."""
    inputs, labels = texts.inputs.clone(), texts.labels.clone()
    given = {name: tensor.clone() for name, tensor in texts.extra_inputs.items()}
    inputs[:, : len(tokens)] = tokens
    labels[:, : len(tokens) - 1] = tokens[1:]
    if MASK in given:
        hidden = given[MASK][:, len(tokens) - 1] == 0
        labels[hidden, len(tokens) - 1] = IGNORED
        given[MASK][:, : len(tokens)] = 1
    return Batch(inputs, labels, given)


def _train(world: World, seconds: float) -> tuple[Tensors, Tensor]:
    """Return the weights after a few epochs (fewer if the time ends) and the number of uses of each text."""
    weights, rounds = world.models.first_weights, list[RoundRecord]()
    batch = world.scenario.federation.batch_size * world.data.steps(0)
    try:
        with interrupting(seconds):
            for one in itertools.islice(rounds_of(world), _PASSES * -(-len(world.data.dataset.train) // batch)):
                weights = one.weights
                rounds.append(one.record)
    except OutOfTime:
        if not rounds:
            raise
    return weights, count_training(world, rounds)


def _score(
    model: nn.Module,
    tokenizer: Tokenizer,
    secret: _Secret,
    uses: Tensor,
    alphabet: Tensor,
    source: np.random.Generator,
    generator: torch.Generator,
) -> SecretScore:
    tokens, known = secret.tokens, len(secret.tokens) // 2
    ends = alphabet[torch.from_numpy(source.integers(len(alphabet), size=(_OTHERS, len(tokens) - known)))]
    others = [(*tokens[:known], *end) for end in ends.tolist()]
    sentences = [tokens, *(other for other in others if other != tokens)]
    recalled = recall(model, tokenizer, sentences, known, generator)
    return SecretScore(
        kind="canary",
        text=tokenizer.decode(list(tokens)),
        repetitions=len(secret.examples),
        uses=int(uses[list(secret.examples)].sum()),
        exposure=recalled.exposure,
        candidates=len(sentences) - 1,
        is_exact=False,
        guess=tokenizer.decode(recalled.written),
        extracted=recalled.written == tokens,
    )


def _tokenizer(subject: Checked) -> Tokenizer:
    assert subject.dataset.tokenizer is not None, "texts have one"
    return subject.dataset.tokenizer
