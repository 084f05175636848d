"""A short training from the audited weights, against a loop written here."""

import pytest
import torch
import torch.nn.functional as F

from fedsim.audit.training import accuracy_lost, evaluate, train
from tests.audit.subjects import small, world


def test_the_trained_weights_are_those_of_plain_steps_on_the_same_batches() -> None:
    subject = small(learning_rate=0.2)
    found = train(world(subject), 3, 60.0)
    model = subject.new_model()
    for entry, truth in zip(found.evidence.journal.entries, found.evidence.truths, strict=True):
        for name, weight in model.state_dict().items():
            # Sums of two examples in single precision, in another order, over three steps.
            torch.testing.assert_close(entry.received_weights[name], weight, rtol=0, atol=1e-6)
        (batch,) = truth.batches
        gradients = torch.autograd.grad(F.cross_entropy(model(batch.inputs), batch.labels), list(model.parameters()))
        with torch.no_grad():
            for weight, gradient in zip(model.parameters(), gradients, strict=True):
                weight.sub_(gradient, alpha=0.2)
    scores = model(subject.dataset.test.inputs).detach()
    assert found.correct.tolist() == (scores.argmax(1) == subject.dataset.test.labels).tolist()
    assert found.summary.rounds == 3
    assert found.summary.accuracy == pytest.approx(float(found.correct.double().mean()))
    assert found.summary.loss == pytest.approx(float(F.cross_entropy(scores, subject.dataset.test.labels)), abs=1e-6)
    assert found.summary.majority_accuracy == 0.5


def test_without_time_two_rounds_are_trained_and_no_more() -> None:
    assert train(world(small()), 9, 0.0).summary.rounds == 2


def test_a_change_of_weights_is_subtracted_as_it_was_sent() -> None:
    subject = small(local_steps=2)
    found = train(world(subject), 2, 60.0)
    first, second = found.evidence.journal.entries
    assert first.update.kind != "gradient"
    for name, sent in first.update.tensors.items():
        torch.testing.assert_close(second.received_weights[name], first.received_weights[name] - sent, rtol=0, atol=0)


def test_the_test_set_is_read_in_pieces_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    own = world(small())
    weights = own.models.first_weights
    correct, loss = evaluate(own, weights)
    monkeypatch.setattr("fedsim.audit.training._PIECE", 3)
    pieces, same = evaluate(own, weights)
    assert correct.tolist() == pieces.tolist()
    assert same == pytest.approx(loss, abs=1e-6)  # single precision, summed in another order


def test_the_accuracy_lost_is_paired_by_example() -> None:
    without = torch.tensor([True, True, True, False])
    with_ = torch.tensor([True, False, True, False])
    lost = accuracy_lost(without, with_, seed=1)
    assert (lost.value, lost.n) == (0.25, 4)
    assert lost == accuracy_lost(without, with_, seed=1)
    same = accuracy_lost(without, without, seed=1)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
