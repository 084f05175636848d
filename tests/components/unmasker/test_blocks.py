"""What is proposed at masked places, how sure the model is, and which places belong to a block."""

import pytest
import torch

from fedsim.components.unmasker._blocks import (
    BlockConfig,
    ProposalConfig,
    Proposed,
    block_places,
    check_blocks,
    confidences,
    events,
    propose,
    surest,
)
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import MaskedTextState

STATE = MaskedTextState(((1, 9, 9, 9, 9), (1, 2, 9, 5, 9, 9)), (1, 2), ((1, 2, 3, 4), (2, 4, 5)))


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_at_temperature_zero_the_likeliest_token_is_proposed_at_each_masked_place() -> None:
    scores = torch.tensor([[9.0, 0, 0], [0, 1, 1], [3, 0, 2], [0, 0, 5]])
    found = propose(scores[[1, 3]], (1, 3), ProposalConfig(), source())
    assert (found.places, found.tokens.tolist()) == ((1, 3), [1, 2])
    expected = scores[[1, 3]].double().softmax(-1)
    torch.testing.assert_close(found.confidence, expected[[0, 1], [1, 2]], rtol=0, atol=0)
    assert found.select_tokens([1]) == {3: 2}


def test_drawn_proposals_have_the_law_of_the_softmax_at_their_temperature() -> None:
    scores, draws = torch.tensor([[1.0, 0.0, -1.0]]), 4000
    own, config = source(), ProposalConfig(temperature=2.0)
    counts = torch.zeros(3)
    for _ in range(draws):
        counts[propose(scores, (0,), config, own).tokens[0]] += 1
    assert torch.allclose(counts / draws, (scores[0] / 2).softmax(-1), atol=0.035)  # 4.4 standard errors of 1/2


def test_every_kind_of_confidence_is_that_of_its_definition() -> None:
    odds, tokens = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.0, 0.9]], dtype=torch.double), torch.tensor([1, 2])

    def sure(kind: str) -> torch.Tensor:
        return confidences(odds, tokens, ProposalConfig.model_validate({"confidence": kind}), source())

    assert sure("drawn").tolist() == [0.3, 0.9]
    assert sure("max").tolist() == [0.5, 0.9]
    assert sure("margin").tolist() == pytest.approx([0.2, 0.8])
    log = torch.where(odds > 0, odds, 1.0).log()
    torch.testing.assert_close(sure("entropy"), (odds * log).sum(-1))
    assert sure("random").tolist() == torch.rand(2, generator=source(), dtype=torch.double).tolist()


def test_of_equally_sure_places_the_first_are_taken() -> None:
    assert surest(torch.tensor([0.5, 0.9, 0.5, 0.9]), 3) == [1, 3, 0]


@pytest.mark.parametrize(
    ("row", "block", "places"),
    [(0, None, (1, 2, 3, 4)), (0, 2, (1, 2)), (0, 4, (1, 2, 3, 4)), (1, 2, (2,)), (1, 4, (2, 4, 5)), (1, 1, (2,))],
)
def test_a_block_is_the_first_that_holds_a_masked_place(row: int, block: int | None, places: tuple[int, ...]) -> None:
    assert block_places(STATE, row, block) == places


def test_blocks_must_divide_the_answer_and_a_step_counts_what_it_did() -> None:
    check_blocks(STATE, 2)
    check_blocks(STATE, None)
    with pytest.raises(FedsimError, match="block is 3, and an answer has 4 positions: expected a divisor"):
        check_blocks(STATE, 3)
    first, second = events(STATE, [{1: 7, 2: 7}, {4: 7}])
    assert first == {"unmasked": 2, "masked": 4, "positions": 5}
    assert second == {"unmasked": 1, "masked": 3, "positions": 6}
    assert BlockConfig().block is None
    assert Proposed((), torch.zeros(0), torch.zeros(0)).select_tokens([]) == {}
