"""Membership attacks on sentences: their signals by hand, a memorising model, and one that never saw a candidate."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks.membership import _signals
from fedsim.core import registry, seeding
from fedsim.core.nets.losses import IGNORED, cross_entropy
from fedsim.core.types import Batch, Config, Tensors
from fedsim.experiment import runner
from fedsim.metrics.membership import separation
from fedsim.questions.membership import observe as membership
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.types import MembershipObservation
from fedsim.scenario import parse
from fedsim.scenario import world as worlds
from fedsim.tasks.next_token import NextToken
from fedsim.threat.replay import replay
from tests.attacks.membership.conftest import FITTING

VOCABULARY, LENGTH, COUNT = 7, 5, 40
ATTACKS = {
    name: method
    for name, method in registry.methods("attack", MembershipAttack).items()
    if name not in FITTING and "text" in getattr(method.make, "modalities", ())
}
CANDIDATES = 30
WORDS = ("rain", "fell", "over", "the", "green", "river", "today", "and", "nobody", "saw", "it", "again", "or", "snow")


class Bigrams(nn.Module):
    """Each token says the next."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table(tokens)


def observed() -> tuple[MembershipObservation, Tensors]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(VOCABULARY, (COUNT, LENGTH), generator=generator)
    labels = torch.randint(VOCABULARY, (COUNT, LENGTH), generator=generator)
    for row in range(COUNT):
        labels[row, 1 + row % LENGTH :] = IGNORED
    weights = {"table.weight": torch.randn(VOCABULARY, VOCABULARY, generator=generator)}
    both = Batch(inputs, labels)
    task = NextToken(Config())
    seen = MembershipObservation(
        both, both, Bigrams(), cross_entropy, ((1, weights),), (), lambda _b, _g: {}, task=task
    )
    return seen, weights


def mean_probability(weights: Tensors, batch: Batch, row: int) -> float:
    """The geometric mean of the probabilities of a sentence's tokens."""
    table = weights["table.weight"].double().softmax(1)
    pairs = zip(batch.inputs[row].tolist(), batch.labels[row].tolist(), strict=True)
    own = [float(table[token, following]) for token, following in pairs if following != IGNORED]
    return float(np.prod(own) ** (1 / len(own)))


def test_signals_of_sentences_are_those_of_their_tokens() -> None:
    seen, weights = observed()
    p = np.array([mean_probability(weights, seen.candidates, row) for row in range(COUNT)])
    np.testing.assert_allclose(_signals.confidences(seen, weights, seen.candidates), p, rtol=1e-6)
    np.testing.assert_allclose(_signals.losses(seen, weights, seen.candidates), -np.log(p), rtol=1e-6)
    np.testing.assert_allclose(_signals.scale(seen, weights, seen.candidates), np.log(p / (1 - p)), rtol=1e-5)


def test_a_certain_sentence_still_has_a_logit() -> None:
    seen, weights = observed()
    sure = {"table.weight": weights["table.weight"] * 1e4}
    assert bool(_signals.scale(seen, sure, seen.candidates).isfinite().all())


@pytest.fixture(scope="module")
def memorising(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A federation that learned few sentences by heart; the sentences of the test set are drawn alike."""
    source = np.random.default_rng(3)
    sentences = [" ".join(WORDS[n] for n in source.integers(len(WORDS), size=10)) + "." for _ in range(150)]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(sentences), encoding="utf-8")
    tables: dict[str, Any] = {
        "title": "t",
        "seed": 3,
        "data": {
            "name": "text-file",
            "path": str(path),
            "length": 16,
            "words": 16,
            "test_fraction": 0.6,
            "canaries": 4,
        },
        "model": {"name": "tiny-llama", "width": 32, "blocks": 1, "hidden": 64},
        "federation": {
            "algorithm": "fedavg",
            "clients": 2,
            "rounds": 2,
            "batch_size": 8,
            "local_epochs": 12,
            "optimizer": {"name": "adam", "learning_rate": 0.01},
        },
        "threat": {"rounds": [1, 2]},
        "membership": {"candidates": CANDIDATES, "attacks": [{"name": "loss-threshold"}]},
    }
    world = worlds.build(parse(tables, "test"))
    journal = runner.train(world, lambda _: None)
    truths = [replay(world, entry).truth for entry in journal.entries]
    cases = {
        "model": membership.observe_model(world, journal, CANDIDATES),
        "update": membership.observe_updates(world, journal, truths, CANDIDATES),
    }
    return world, cases


def made(name: str) -> MembershipAttack[Any]:
    config = ATTACKS[name].config
    few = {"shadows": 4} if "shadows" in config.model_fields else {}
    return ATTACKS[name].make(config.model_validate(few))


def scored(attack: MembershipAttack[Any], seen: MembershipObservation) -> Tensor:
    plan = attack.plan()
    shadows = {} if plan is None else {plan: membership.shadows(seen, plan, 0, lambda _: None)}
    return attack(replace(seen, shadows=shadows), seeding.generator(1, "score"))


@pytest.mark.parametrize("name", ATTACKS)
def test_members_of_a_memorising_model_are_found(name: str, memorising: Any) -> None:
    _, cases = memorising
    attack = made(name)
    case = cases[attack.target]
    auc = separation(scored(attack, case.observation), case.is_member, np.random.default_rng(0)).auc
    assert auc.low is not None
    assert auc.low > 0.6


def test_planted_secrets_are_no_candidates(memorising: Any) -> None:
    world, cases = memorising
    planted = world.data.dataset.train.inputs[[own.examples[0] for own in world.data.dataset.planted_secrets]]
    candidates = cases["model"].observation.candidates.inputs
    assert not (candidates[:, None] == planted).all(-1).any()
