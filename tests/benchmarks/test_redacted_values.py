"""Refusals of a redaction, against a model that wants one token and a list of one number."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.redacted_values import Listed, Watched, WrittenText, as_json, as_table, ask, by_count, by_token, line
from fedsim.core.types import Event, Generated, Limits, Trace
from fedsim.threat.trace_study import SecretAmongOthers, Speaker
from tests.components.decoder.lettered import Letters
from tests.components.generating import make

A, ONE, TWO = 0, 3, 4


class Wants(nn.Module):
    """Wants the digit 1, and then the letter a."""

    def forward(self, tokens: Tensor) -> Tensor:
        scores = torch.full((*tokens.shape, 6), -50.0)
        scores[..., ONE], scores[..., A] = 50.0, 0.0
        return scores


def secret() -> SecretAmongOthers:
    wholes = ((A, TWO, ONE), (A, TWO, TWO))  # the true number is 21
    return SecretAmongOthers("a21", (A,), wholes, tuple(own[:2] for own in wholes), True, 100)


def test_a_list_refuses_the_last_sign_of_its_numbers_alone() -> None:
    listed = Listed("a2", ["21"], Letters())
    assert [listed.allows(own) for own in ((), (TWO,), (ONE,), (A, ONE))] == [True, True, False, True]


def test_the_token_that_is_refused_first_is_the_one_that_the_model_wanted() -> None:
    speaker = Speaker(Wants(), make("greedy"), Letters(), Limits(max_new_tokens=1))
    asked = ask(speaker, [secret()], lambda _: Listed("a2", ["21", "22"], Letters()), None)
    assert {(own.candidate, own.token, own.first) for own in asked} == {(0, ONE, ONE), (1, TWO, ONE)}
    assert all(own.text.tokens == (A,) for own in asked)
    assert set(by_token(asked)) == {0.0, 1.0}
    assert min(by_count(asked, "rejected")) >= 1
    assert not any(own.first for own in ask(speaker, [secret()], lambda _: Listed("a", [], Letters()), None))


def test_exposure_is_full_where_the_true_number_scores_most_and_members_are_told_by_it() -> None:
    text = Generated(Trace((1,), (Event(rejected=1),)), "length", (A,))
    asked = [WrittenText(person, candidate, ONE, text, None) for person in range(8) for candidate in (0, 1, 2, 3)]
    is_planted = np.arange(8) < 4
    scores = [float(own.candidate == 0 and own.secret < 4) for own in asked]
    found = line(("digits", "none", "", "rejected"), asked, scores, is_planted)
    assert (found.planted.value, found.persons.value) == (2.0, 1.0)
    assert found.chance == pytest.approx(np.log2(4) - np.log2([1, 2, 3, 4]).mean())
    doubled = line(("", "", "", ""), [*asked, *asked], [*scores, *(0.0 for _ in asked)], is_planted)  # means, not sums
    assert doubled.planted.value == found.planted.value
    assert json.loads(as_json([found]))[0]["planted"]["value"] == 2.0
    assert as_table([found]).splitlines()[-1].startswith("| digits | none |  | rejected | 2.00 [2.00, 2.00] | ")


def test_a_watched_constraint_says_what_its_own_says() -> None:
    watched = Watched(Listed("a", ["1"], Letters()))
    assert [watched.allows((own,)) for own in (A, ONE, TWO)] == [True, False, True]
    assert watched.refused == [ONE]
    assert not watched.completes((A,))
