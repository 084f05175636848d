"""Texts by descent and by moving words."""

import copy
from dataclasses import replace

import pytest
import torch

from attacks.core.matching.descent import RestartResult
from attacks.text._words import words_of
from tests.attacks.solving import attack_named
from tests.attacks.text.texts import KNOWN, LONG, in_order, recovered, true_vectors
from tests.attacks.written import WRITTEN
from tests.federating import watched


def test_tokens_are_moved_and_changed_until_the_gradient_is_explained() -> None:
    observation, truth, _ = watched(**WRITTEN, knows=KNOWN, federation={"batch_size": 1})
    attack = attack_named("lamp", restarts=1)
    task = attack.prepare(observation)
    vectors = true_vectors(task, truth)
    vectors[0, [1, 4]] = vectors[0, [4, 1]]
    vectors[0, 6] = vectors[0, 0]
    found = attack.finish(task, RestartResult(0, 0, vectors, ()), torch.Generator().manual_seed(0))
    assert torch.equal(task.tokens(found.inputs), in_order(truth)[0])


def test_drafts_hold_every_word_that_was_read() -> None:
    observation, truth, _ = watched(**WRITTEN, knows=KNOWN, federation={"clients": 2, "batch_size": 2})
    attack = attack_named("lamp")
    task = attack.prepare(observation)
    for seed in range(5):
        found = task.tokens(task.draw(torch.Generator().manual_seed(seed)))
        assert (found >= 0).sum(1).tolist() == list(task.lengths)
        assert set(found[found >= 0].tolist()) == set(in_order(truth)[0].flatten().tolist()) - {-1}


@pytest.mark.paper_step("lamp", "penalty on the length of the vectors")
def test_the_true_vectors_have_the_usual_norm_in_a_model_whose_frequent_words_grew() -> None:
    observation, truth, _ = watched(**WRITTEN, knows=KNOWN, federation={"batch_size": 1})
    grown = copy.deepcopy(observation.model)
    read = words_of(observation).read
    assert read is not None
    with torch.no_grad():
        grown.get_submodule("embed_tokens").get_parameter("weight")[read] *= 3.0
    attack = attack_named("lamp")
    task = attack.prepare(replace(observation, model=grown))
    assert float(attack.prior(task, true_vectors(task, truth)[None])) < 0.02


@pytest.mark.paper_step("lamp", "descent on one vector per token")
@pytest.mark.paper_step("lamp", "choice by gradient and language model")
@pytest.mark.slow
def test_lamp_recovers_sentences() -> None:
    tables = {**WRITTEN, "federation": {"clients": 3, "batch_size": 1}}
    seen = [watched(**tables, knows=KNOWN, client=client)[:2] for client in range(2)]
    share = recovered(attack_named("lamp", **LONG["lamp"]), seen)
    assert share["own"] > max(share["chance"], share["other"]) + 0.3
