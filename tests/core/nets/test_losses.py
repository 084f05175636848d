import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fedsim.core.errors import FedsimError
from fedsim.core.nets.losses import (
    IGNORED,
    NumberLoss,
    are_tokens,
    compute_example_losses,
    cross_entropy,
    is_cross_entropy,
)


@given(st.integers(1, 5), st.integers(1, 4), st.booleans(), st.integers(0, 100))
def test_several_answers_are_averaged_answer_by_answer(examples: int, answers: int, soft: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(examples, answers, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (examples,), generator=generator)
    labels = torch.rand(examples, 3, generator=generator, dtype=torch.float64).softmax(1) if soft else labels
    singles = torch.stack([F.cross_entropy(outputs[:, m], labels, reduction="none") for m in range(answers)])
    assert torch.allclose(compute_example_losses(outputs, labels), singles.mean(0))
    assert torch.allclose(cross_entropy(outputs, labels), singles.mean())


def test_one_answer_is_torchs_own_loss_bit_by_bit() -> None:
    outputs, labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 1])
    assert torch.equal(cross_entropy(outputs, labels), F.cross_entropy(outputs, labels))
    assert torch.equal(compute_example_losses(outputs, labels), F.cross_entropy(outputs, labels, reduction="none"))


@given(st.integers(1, 6), st.integers(0, 100))
def test_one_answer_against_probabilities_is_torchs_own_loss(examples: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(examples, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.rand(examples, 3, generator=generator, dtype=torch.float64).softmax(1)
    ours, theirs = cross_entropy(outputs, labels), F.cross_entropy(outputs, labels)
    assert torch.allclose(ours, theirs)
    assert torch.allclose(torch.autograd.grad(ours, outputs)[0], torch.autograd.grad(theirs, outputs)[0])


def test_an_average_of_logits_is_another_loss() -> None:
    outputs = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1])
    assert float(cross_entropy(outputs, labels)) > float(F.cross_entropy(outputs.mean(1), labels))


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 100))
def test_next_tokens_are_averaged_sentence_by_sentence_without_what_is_ignored(
    examples: int, length: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(examples, length, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (examples, length), generator=generator)
    labels[torch.rand(examples, length, generator=generator) < 0.3] = IGNORED
    expected = []
    for sentence, following in zip(outputs, labels, strict=True):
        losses = [-sentence[t].log_softmax(0)[k] for t, k in enumerate(following.tolist()) if k != IGNORED]
        expected.append(torch.stack(losses).mean() if losses else torch.tensor(0.0, dtype=torch.float64))
    assert torch.allclose(compute_example_losses(outputs, labels), torch.stack(expected))
    assert torch.allclose(cross_entropy(outputs, labels), torch.stack(expected).mean())


def test_as_many_tokens_as_probabilities_are_not_mistaken_for_them() -> None:
    outputs = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[0, 1, 2], [2, 2, IGNORED]])
    assert are_tokens(tokens)
    assert not are_tokens(torch.eye(3)[:2])
    assert not are_tokens(torch.tensor([0, 1]))
    assert torch.allclose(compute_example_losses(outputs, tokens)[0], F.cross_entropy(outputs[0], tokens[0]))


def test_several_answers_at_every_token_are_averaged_and_padding_is_left_out() -> None:
    outputs = torch.randn(3, 4, 5, 7, generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(1))
    tokens[0, 2:] = IGNORED
    singles = torch.stack([compute_example_losses(outputs[:, answer], tokens) for answer in range(4)])
    assert torch.allclose(compute_example_losses(outputs, tokens), singles.mean(0))
    assert torch.allclose(cross_entropy(outputs, tokens), singles.mean())


SHAPES = [(1, 5), (3, 5), (2, 4, 5)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cross_entropy_is_told_by_its_gradient(shape: tuple[int, ...]) -> None:
    assert is_cross_entropy(cross_entropy, shape)
    assert is_cross_entropy(lambda outputs, labels: cross_entropy(outputs, labels) + 7.0, shape)
    with torch.no_grad():
        assert is_cross_entropy(cross_entropy, shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_other_losses_are_not_taken_for_it(shape: tuple[int, ...]) -> None:
    assert not is_cross_entropy(lambda outputs, labels: 2.0 * cross_entropy(outputs, labels), shape)
    assert not is_cross_entropy(lambda outputs, labels: cross_entropy(outputs, labels) + 1e-3 * outputs.sum(), shape)
    assert not is_cross_entropy(lambda outputs, labels: cross_entropy(outputs.detach(), labels), shape)
    assert not is_cross_entropy(lambda outputs, labels: cross_entropy(1.01 * outputs, labels), shape)


def test_one_logit_has_no_cross_entropy() -> None:
    assert not is_cross_entropy(cross_entropy, (3, 1))
    assert not is_cross_entropy(lambda outputs, _labels: outputs.square().sum(), (3, 1))


def test_a_loss_of_numbers_gets_labels_in_the_shape_of_outputs_or_in_its_own() -> None:
    def shapes(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.tensor([*outputs.shape, *labels.shape])

    flat, column = torch.zeros(3), torch.zeros(3, 1)
    assert NumberLoss(shapes)(flat, column).tolist() == [3, 3]
    assert NumberLoss(shapes)(column, flat).tolist() == [3, 1, 3, 1]
    assert NumberLoss(shapes, ())(column, column).tolist() == [3, 1, 3]
    assert NumberLoss(shapes, (1,))(flat, flat).tolist() == [3, 3, 1]


def test_a_loss_of_numbers_refuses_other_counts_and_is_no_cross_entropy() -> None:
    loss = NumberLoss(F.mse_loss)
    with pytest.raises(FedsimError, match=r"outputs of shape \(4, 4\) do not match labels of shape \(4,\)"):
        loss(torch.zeros(4, 4), torch.zeros(4))
    assert not is_cross_entropy(loss, (4, 4))
