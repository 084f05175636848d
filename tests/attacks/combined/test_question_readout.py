"""A question that is withheld gives its words away by the embedding's rows, and their order by the rows' values."""

from collections.abc import Sequence
from functools import cache

import pytest
import torch

from attacks.combined import question_readout
from attacks.combined.question_readout import QuestionReadout, QuestionReadoutConfig, QuestionText, arrange_words
from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.types import Knowledge, Observation, WireEntry
from fedsim.federation.client import local_training
from fedsim.record import VictimRecord
from fedsim.scenario import parse
from fedsim.scenario import world as worlds
from fedsim.scenario.example import example_of, with_tables
from fedsim.threat.observe import observe
from fedsim.threat.scoring import score
from fedsim.threat.victim import Victim
from tests.attacks.solving import sending

WITHHELD: tuple[Knowledge, ...] = ("batch-size", "input-statistics")


@cache
def victim(batch_size: int = 1) -> Victim:
    own = example_of(registry.get("attack", "question-readout"))
    world = worlds.build(parse(with_tables(own, {"federation": {"batch_size": batch_size}}), "test"))
    world.check()
    first = world.models.first_weights
    update, truth = local_training(world, first, 1, 0)
    return Victim(world, WireEntry(1, 0, first, update), truth)


def seen(own: Victim) -> Observation:
    return observe(own, WITHHELD)


def attack(**settings: object) -> QuestionReadout:
    return QuestionReadout(QuestionReadoutConfig.model_validate({"attack": "closed-form-vit", **settings}))


def test_every_order_of_the_words_is_one_text() -> None:
    assert set(arrange_words([5, 6, 7], 2, 0)) == {
        QuestionText((first, second), (third,))
        for first, second, third in ((5, 6, 7), (5, 7, 6), (6, 5, 7), (6, 7, 5), (7, 5, 6), (7, 6, 5))
    }
    short = list(arrange_words([0, 5, 6, 7], 3, 0))
    assert len(short) == len(set(short)) == 12  # one word and two that answer, or two and one, in any order
    assert all(own.question[-1] == 0 and set(own.question) | set(own.answer) == {0, 5, 6, 7} for own in short)
    assert list(arrange_words([5, 6], 2, 0)) == []


def read_of(record: VictimRecord) -> tuple[float, float]:
    return record.values["questions_read"], record.values["answers_read"]


def test_question_answer_and_image_are_read_without_a_grant() -> None:
    own = victim()
    guess = attack()(seen(own), seeding.generator(0, "attack"))
    found = score(own, guess).record
    assert read_of(found) == (1.0, 1.0)
    assert found.scores[0].values["psnr"] > 60  # beyond rounding of single precision
    assert "explains the update" in guess.notes[0]


def test_an_order_that_was_wrong_at_the_grey_image_is_mended_at_the_one_that_was_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, nearest, looked = victim(), question_readout.nearest, list[QuestionText]()

    def wrong_at_first(observation: Observation, orders: Sequence[QuestionText], image: torch.Tensor) -> QuestionText:
        found = nearest(observation, orders, image)
        looked.append(next(one for one in orders if one != found) if not looked else found)
        return looked[-1]

    monkeypatch.setattr(question_readout, "nearest", wrong_at_first)
    guess = attack()(seen(own), seeding.generator(0, "attack"))
    assert len(looked) == 2
    assert read_of(score(own, guess).record) == (1.0, 1.0)


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(NotApplicable, match="2 questions are mixed"):
        attack()(seen(victim(2)), torch.Generator())
    with pytest.raises(NotApplicable, match="more orders than the setting 'max_orders'"):
        attack(max_orders=2)(seen(victim()), torch.Generator())
    with pytest.raises(NotApplicable, match="set it to another attack"):
        attack(attack="question-readout")(seen(victim()), torch.Generator())
    with pytest.raises(FedsimError, match="settings of 'gauss-newton'"):
        attack(attack="gauss-newton", options={"restarts": 0})(seen(victim()), torch.Generator())
    own = seen(victim())
    hidden = {name: one for name, one in own.update.tensors.items() if name != "embed_tokens.weight"}
    without = sending(own, hidden, hidden_parameters=frozenset({"embed_tokens.weight"}))
    with pytest.raises(NotApplicable, match="the gradient of the embedding 'embed_tokens' is not sent"):
        attack()(without, torch.Generator())
