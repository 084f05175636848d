"""Searches for a text: what holds at the truth, and what is returned."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attacks.core.matching.unknowns import MASKS, SearchProgress
from attacks.text._words import words_of
from fedsim.core.errors import NotApplicable
from fedsim.core.types import Config, Step
from fedsim.tasks.sentence_embedding import SentenceEmbedding
from tests.attacks.solving import attack_named
from tests.attacks.text.texts import KNOWN, SEARCHES, SHORT, in_double, in_order, true_vectors
from tests.attacks.written import WRITTEN, masked_client
from tests.federating import watched


@pytest.mark.paper_step("tag", "nearest tokens")
@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_objective_is_zero_at_the_truth(name: str, dropout: float) -> None:
    tables = {**WRITTEN, "model": {**WRITTEN["model"], "dropout": dropout}}
    observation, truth, _ = watched(**tables, knows=(*KNOWN, "masks"), federation={"batch_size": 1})
    attack = attack_named(name, temperature=0.05)
    task = attack.prepare(in_double(observation, truth))
    masks = task.unknowns.forward_values({}, SearchProgress()).get(MASKS, ())
    gradients = task.comparison.gradients(true_vectors(task, truth)[None], masks, task.labels[None], [0])
    assert attack.distance(gradients).item() < 1e-9  # type: ignore[attr-defined]
    assert torch.equal(task.tokens(true_vectors(task, truth)), in_order(truth)[0])


@pytest.mark.paper_step("tag", "descent on one vector per token")
@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize(
    "knows",
    [
        ("batch-size",),
        *(pytest.param((*KNOWN, *more), marks=pytest.mark.slow) for more in ((), ("masks",), ("labels",))),
    ],
)
def test_it_reports_tokens_in_order_and_returns_sentences(name: str, knows: tuple[str, ...]) -> None:
    tables = {**WRITTEN, "model": {**WRITTEN["model"], "dropout": 0.2}}
    observation, truth, _ = watched(**tables, knows=knows, federation={"clients": 2, "batch_size": 2})
    steps: list[Step] = []
    guess = attack_named(name, **SHORT[name])(observation, torch.Generator().manual_seed(1), steps.append)
    assert [step.iteration for step in steps] == list(range(1, SHORT[name]["max_iterations"] + 1))
    assert all(step.guess.dtype == torch.long for step in steps)
    assert guess.inputs.shape == (2, 10)
    assert sorted((guess.inputs >= 0).sum(1).tolist()) == sorted((in_order(truth)[0] >= 0).sum(1).tolist())
    words = words_of(observation).read
    assert set(guess.inputs[guess.inputs >= 0].tolist()) <= set(words.tolist())
    searched = "dropout-rates" in knows and "masks" not in knows
    assert (guess.masks is not None) == searched


def test_gradients_are_differentiated_as_finite_differences_say() -> None:
    observation, truth, _ = watched(**WRITTEN, knows=KNOWN, federation={"batch_size": 1})
    attack = attack_named("lamp")
    task = attack.prepare(in_double(observation, truth))
    generator = torch.Generator().manual_seed(0)
    vectors = true_vectors(task, truth) + task.scale * torch.randn(true_vectors(task, truth).shape, generator=generator)
    along = torch.randn(vectors.shape, generator=generator, dtype=torch.float64)

    def objective(step: float) -> Tensor:
        moved = (vectors + step * along).requires_grad_()
        gradients = task.comparison.gradients(moved[None], (), task.labels[None], [0])
        (slope,) = torch.autograd.grad(attack.distance(gradients), moved)  # type: ignore[attr-defined]
        return torch.stack((attack.distance(gradients).detach().squeeze(), (slope * along).sum()))  # type: ignore[attr-defined]

    ahead, here, behind = objective(1e-5), objective(0.0), objective(-1e-5)
    assert float(here[1]) == pytest.approx(float(ahead[0] - behind[0]) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_contrastive_loss_is_refused_in_one_sentence(name: str) -> None:
    observation, _, _ = watched(**WRITTEN, knows=KNOWN, federation={"batch_size": 1})
    spec, task = replace(observation.spec, classes=1), SentenceEmbedding(Config())
    unlabelled = replace(observation, spec=spec, labels=torch.zeros(1), task=task)
    with pytest.raises(NotApplicable, match="the sentences have no labels"):
        attack_named(name)(unlabelled, torch.Generator())


@pytest.mark.parametrize("name", SEARCHES)
def test_draws_of_the_task_are_refused_even_where_labels_are_granted(name: str) -> None:
    observation, truth = masked_client()
    granted = replace(observation, labels=truth.original_batches[0].labels)
    with pytest.raises(NotApplicable, match="draws something in every step|not the mean cross-entropy"):
        attack_named(name)(granted, torch.Generator().manual_seed(0))
