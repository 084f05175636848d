"""What an audit reads of a text without a search, and which guess it keeps when the clock ends an update."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.audit import subject
from fedsim.audit.record import KNOWS
from fedsim.audit.searching import LatestGuess, descents, read_words, search, select_searches
from fedsim.audit.update_attacks import UpdateAttacker, updates
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import CostEstimate
from fedsim.core.registry import methods
from fedsim.core.time_budget import OUT_OF_TIME
from fedsim.core.types import Observation, Reconstruction, Step
from fedsim.judgement.outcome import outcome_of
from fedsim.questions.base import QuestionContext
from fedsim.scenario.world import World
from fedsim.tasks.core.sentences import READ_WORDS
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim
from tests.audit.subjects import plan, small
from tests.audit.subjects import world as world_of


class Sentences(nn.Module):
    """Classifies texts by the mean of their words and places."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.head = nn.Embedding(60, 8), nn.Embedding(6, 8), nn.Linear(8, 2)

    def forward(self, input_ids: Tensor) -> Tensor:
        places = self.places(torch.arange(input_ids.shape[1]))
        return self.head(torch.tanh(self.words(input_ids) + places).mean(1))


def texts() -> subject.CheckedSubject:
    torch.manual_seed(0)
    tokens, labels = torch.randint(60, (8, 6)), torch.arange(8) % 2
    loader: Any = [{"input_ids": tokens, "labels": labels}]
    return subject.check_subject(subject.Subject(Sentences(), None, loader), "texts")


def watched(world: World) -> tuple[Observation, Tensor]:
    """Return what the attacker sees of the first update, and its examples."""
    seen = next(updates(world))
    return observe(Victim(world, seen.entry, seen.truth), KNOWS), seen.truth.original_batches[0].inputs


def test_rows_of_the_embedding_name_every_word_without_a_search() -> None:
    world = world_of(texts())
    observation, tokens = watched(world)
    assert read_words(world, observation, 1)[READ_WORDS].tolist() == tokens.unique().tolist()
    images = world_of(small())
    assert read_words(images, watched(images)[0], 1) == {}


def test_an_audit_says_that_a_text_was_read_where_no_search_finds_its_order() -> None:
    world = world_of(texts())
    finding = UpdateAttacker(KNOWS, lambda _said: None).inspect(world, updates(world), QuestionContext(), 1, 2, 30.0)
    assert finding.value.value == 0.0
    assert outcome_of(finding.victims, plan().scoring.rule) == "recovered"


def step(best: float) -> Step:
    return Step(0, 3, 9, best, best, torch.full((2, 6), 7))


def test_the_guess_of_lower_objective_is_kept() -> None:
    observation, _ = watched(world_of(texts()))
    exact = Reconstruction.of(torch.zeros(2, 6, dtype=torch.long), objective=0.5)
    assert LatestGuess().best(observation) == "no guess within the time"
    for latest, expected in (
        (LatestGuess(exact, step(0.6)), 0),
        (LatestGuess(exact, step(0.4)), 7),
        (LatestGuess(None, step(9.0)), 7),
    ):
        kept = latest.best(observation)
        assert isinstance(kept, Reconstruction)
        assert kept.stop_reason == OUT_OF_TIME
        assert set(kept.inputs.flatten().tolist()) == {expected}
    solved = Reconstruction.of(exact.inputs, objective=0.5, is_exact=True, stop_reason="solved")
    assert LatestGuess(solved, step(0.1)).best(observation) is solved


def test_one_search_gets_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(small())
    observation, _ = watched(world)
    undoing = {name for name, own in descents().items() if own.inverts_augmentation}
    assert select_searches(observation, 100) == {"inverting-gradients", *undoing}
    with pytest.raises(NotApplicable):
        search(world, observation, 1, methods("attack"), 1, LatestGuess())
    monkeypatch.setattr(descents()["gradinversion"], "outlook", lambda *_: CostEstimate(1e-3, 0.9, "it is Friday"))
    assert select_searches(observation, 100) == {"gradinversion", *undoing}


def test_of_a_text_the_search_that_moves_words_gets_the_time() -> None:
    observation, _ = watched(world_of(texts()))
    assert "lamp" in select_searches(observation, 100)
    assert "tag" not in select_searches(observation, 100)
