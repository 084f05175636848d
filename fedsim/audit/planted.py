"""Plant secrets into the texts of a language model's client, train it, and tell how much of them it remembers.

A secret is a row of random tokens of the client's texts. The attacker has the trained model, knows how a secret begins,
and ranks its end among others that are drawn alike. Secrets that are planted 0 times are the control, and those that
are planted often show whether this training remembers anything. Paper: Carlini et al. 2019, arXiv 1802.08232.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.audit.clock import OutOfTime, limit
from fedsim.audit.record import AuditArm, AuditPlan
from fedsim.audit.single_client import world_of
from fedsim.audit.subject import Checked
from fedsim.audit.texts import MASK
from fedsim.audit.training import rounds_of
from fedsim.core import seeding
from fedsim.core.errors import FedsimError
from fedsim.core.nets.losses import IGNORED
from fedsim.core.types import Batch, Tensors, Tokenizer
from fedsim.metrics.exposure import SecretScore
from fedsim.questions.exposure.memorisation import recall
from fedsim.questions.exposure.question import ITEMS, summarise, table_of
from fedsim.record import Finding, RoundRecord
from fedsim.scenario.world import World
from fedsim.threat.uses import count_training

REPETITIONS = (0, 1, 16)
_EACH = 8  # secrets of each number of repetitions
_TEXTS = 128  # texts of the client among which they are planted
_LENGTH, _SHORTEST = 8, 4  # tokens of a secret, half of them known
_OTHERS = 200
_FEWEST = 3  # secrets of each number that have an interval
_PASSES = 4


@dataclass(frozen=True)
class _Secret:  # no `Planted`, which is a text of digits and letters: a user's tokenizer need not read what it wrote
    tokens: tuple[int, ...]
    examples: tuple[int, ...]


def measure(subject: Checked, plan: AuditPlan, arm: AuditArm, seconds: float) -> AuditArm:
    """Train the client on a part of its texts and on secrets, and add to its arm what the model remembers of them.

    Args:
        subject: a causal language model.
        plan: holds the seed.
        arm: says how large the batches of the training are.
        seconds: time for all of it.

    Raises:
        FedsimError: texts are too short or too much alike, or the time was too short.
    """
    source = np.random.default_rng(seeding.derive(plan.seed, "planted secrets"))
    texts, secrets = _planted(subject, source)
    dataset = replace(subject.dataset, train=texts)
    world = world_of(replace(subject, dataset=dataset), plan, min(arm.batch_size, len(texts)))
    scores: list[SecretScore] = []
    begin = time.monotonic()
    with suppress(OutOfTime):
        weights, uses = _train(world, seconds / 2)
        with limit(seconds - (time.monotonic() - begin)):
            model, tokenizer = world.models.holding(weights).eval(), _tokenizer(subject)
            alphabet, generator = _alphabet(subject), seeding.generator(plan.seed, "what secrets make a model write")
            for secret in secrets:
                scores.append(_score(model, tokenizer, secret, uses, alphabet, source, generator))
    if len(scores) < _FEWEST * len(REPETITIONS):
        raise FedsimError(f"planted secrets were not measured: {seconds:.0f} s were not enough")
    return arm.with_findings(list(summarise(scores, plan.scoring, plan.seed)), {ITEMS: table_of(scores)})


def sentence_of(findings: Sequence[Finding]) -> str:
    """Return in a sentence or two what the model remembers; nothing follows where it forgets those planted often."""
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
    """Return whether secrets are remembered better than those that were not planted: with disjoint intervals."""
    if finding.role == "chance" or finding.value is None or control.value is None:
        return False
    low, high = finding.value.low, control.value.high
    return low is not None and high is not None and low > high


def _times(planted: Sequence[Finding]) -> str:
    numbers = [finding.about["repetitions"] for finding in planted]
    return " and ".join("once" if number == 1 else f"{number} times" for number in numbers)


def _alphabet(subject: Checked) -> Tensor:
    """Return the tokens that secrets are drawn from: those of the client's texts."""
    tokens = subject.dataset.train.inputs.unique()
    return tokens[tokens != subject.dataset.spec.padding] if subject.dataset.spec.padding is not None else tokens


def _planted(subject: Checked, source: np.random.Generator) -> tuple[Batch, tuple[_Secret, ...]]:
    """Return a part of the client's texts, then copies of them that begin with a secret, and the secrets."""
    texts, alphabet = subject.dataset.train, _alphabet(subject)
    length = min(_LENGTH, texts.inputs.shape[1])
    if length < _SHORTEST or len(alphabet) < _LENGTH:
        raise FedsimError(
            f"planted secrets were not measured: texts of {length} tokens, {len(alphabet)} different ones, hold none"
        )
    chosen = torch.from_numpy(source.permutation(len(texts))[:_TEXTS])
    pieces, secrets, first = [texts.taken(chosen)], list[_Secret](), len(chosen)
    for copies in REPETITIONS * _EACH:  # in turns, since the time may end
        tokens = alphabet[torch.from_numpy(source.integers(len(alphabet), size=length))]
        if copies:
            copied = texts.taken(torch.from_numpy(source.integers(len(texts), size=copies)))
            pieces.append(_with_secret(copied, tokens))
        secrets.append(_Secret(tuple(tokens.tolist()), tuple(range(first, first + copies))))
        first += copies
    return Batch.joined(pieces), tuple(secrets)


def _with_secret(texts: Batch, tokens: Tensor) -> Batch:
    """Return texts whose first tokens are a secret's; the label of each is the next one."""
    inputs, labels = texts.inputs.clone(), texts.labels.clone()
    given = {name: tensor.clone() for name, tensor in texts.given.items()}
    inputs[:, : len(tokens)] = tokens
    labels[:, : len(tokens) - 1] = tokens[1:]
    if MASK in given:
        hidden = given[MASK][:, len(tokens) - 1] == 0
        labels[hidden, len(tokens) - 1] = IGNORED
        given[MASK][:, : len(tokens)] = 1
    return Batch(inputs, labels, given)


def _train(world: World, seconds: float) -> tuple[Tensors, Tensor]:
    """Return the weights after some passes, fewer where the time ends, and how often each text was used."""
    weights, rounds = world.models.first_weights, list[RoundRecord]()
    batch = world.scenario.federation.batch_size * world.data.steps(0)
    try:
        with limit(seconds):
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
