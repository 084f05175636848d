"""Surplus: positions of an enumerated source have its surplus, and permuted states none; places are counted by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedsim.components.probe.markov_categorical import spectral_alignment
from fedsim.questions import surplus as asking
from fedsim.questions.base import QuestionContext
from fedsim.questions.surplus import Estimator, Surplus, SurplusQuestion
from tests.experiment.running import Build
from tests.questions.texts import TEXTS, evidence_of


def exclusive(count: int) -> asking._Positions:
    """The later token is the exclusive or of next token and state: ln 2 nats of surplus that no linear map sees."""
    first, state = torch.randint(0, 2, (2, count), generator=torch.Generator().manual_seed(0))
    clients = torch.where(torch.arange(count) < count // 2, -1, torch.arange(count) % 4)
    hidden = F.one_hot(state).double()
    return asking._Positions(hidden, torch.stack((first, first ^ state), 1), torch.arange(count), clients)


@pytest.mark.slow
@pytest.mark.parametrize(("estimator", "nats"), [("log-linear", 0.0), ("network", math.log(2))])
def test_the_surplus_of_an_exclusive_or_is_seen_by_a_network_alone(estimator: Estimator, nats: float) -> None:
    question, source = SurplusQuestion(Surplus()), torch.Generator().manual_seed(0)
    told = question._nats(exclusive(600), estimator, is_control=False, generator=source)
    assert told.shape == (300,)
    assert float(told.mean()) == pytest.approx(nats, abs=0.02)  # the sheet's
    permuted = question._nats(exclusive(600), estimator, is_control=True, generator=source)
    assert abs(float(permuted.mean())) < 0.02


def test_places_have_a_state_and_all_tokens_behind_it() -> None:
    inputs = torch.tensor([[5, 6, 7, 0], [8, 0, 0, 0], [1, 2, 3, 4]])
    texts, places = asking._places(inputs, 0, 2)
    assert [tuple(pair) for pair in torch.stack((texts, places), 1).tolist()] == [(0, 0), (2, 0), (2, 1)]
    assert len(asking._places(inputs, None, 2)[0]) == 6


def test_a_federation_of_texts_has_each_figure_and_its_control(scenario: Build) -> None:
    evidence = evidence_of(scenario(**TEXTS))
    question = SurplusQuestion(Surplus(vocabulary=10, directions=4))
    findings = list(question.run(evidence, QuestionContext()))
    assert [(finding.label, finding.role) for finding in findings] == [
        ("surplus, log-linear", "attack"),
        ("surplus, log-linear, states permuted", "negative-control"),
        ("alignment", "attack"),
        ("alignment, states permuted", "negative-control"),
    ]
    figures = [finding.value for finding in findings]
    assert all(figure is not None and figure.n == 8 for figure in figures)
    assert findings[2].state == "recovered"  # states are the last read token's, whose successors differ
    assert findings[3].state == "withstood"


def test_the_alignment_is_that_of_all_positions_with_an_interval_around_it() -> None:
    source = torch.Generator().manual_seed(0)
    hidden, clients = torch.randn(200, 3, generator=source).double(), torch.arange(200) % 10
    tokens = F.one_hot((hidden @ torch.randn(3, 5, generator=source).double()).argmax(1)).double()
    told = asking.alignment(hidden, tokens, clients, np.random.default_rng(0))
    assert told.value == pytest.approx(spectral_alignment(hidden, tokens), abs=1e-12)
    assert told.low < told.value < told.high
    assert told.n == 10


def test_contributions_of_clients_are_what_the_alignment_loses_without_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jackknife of a mean: three clients' values are 1, 4 and 10, and their mean is 5."""
    monkeypatch.setattr(asking, "spectral_alignment", lambda hidden, _tokens: float(hidden.mean()))
    monkeypatch.setattr(asking, "mean_interval", lambda values, *_: values)
    hidden, clients = torch.tensor([[1.0], [4.0], [10.0]]), torch.tensor([7, 2, 5])
    values = asking.alignment(hidden, torch.zeros(3, 1), clients, np.random.default_rng(0))
    assert sorted(value for (value,) in values) == pytest.approx([1.0, 4.0, 10.0])  # type: ignore[attr-defined]
