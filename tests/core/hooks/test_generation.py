"""States of generations: rows that leave and come twice, and scores that are no numbers."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.core.errors import FedsimError, GenerationError
from fedsim.core.hooks import GenerationInputs, Sampling, TextState
from fedsim.core.hooks.generation import BatchedState, check_scores
from tests.components.generating import Breaking, make, tiny_llama


@dataclass(frozen=True)
class Mixed(BatchedState):
    """A row in every way in which a state may hold one."""

    texts: tuple[str, ...]
    numbers: Tensor
    inner: Sampling
    with_name: dict[str, Any]


def test_rows_are_taken_out_of_every_field_in_the_order_that_is_asked_for() -> None:
    own = Mixed(
        ("a", "b", "c"),
        torch.arange(6).view(3, 2),
        Sampling(torch.arange(3.0), (7, 8, 9)),
        {"deep": {"own": torch.arange(3)}, "tuple": (4, 5, 6)},
    )
    kept = own.keep([2, 0, 2])
    assert kept.texts == ("c", "a", "c")
    assert kept.numbers.tolist() == [[4, 5], [0, 1], [4, 5]]
    assert (kept.inner.x.tolist(), kept.inner.level) == ([2.0, 0.0, 2.0], (9, 7, 9))
    assert kept.with_name["deep"]["own"].tolist() == [2, 0, 2]
    assert kept.with_name["tuple"] == (6, 4, 6)
    assert len(own.keep([]).texts) == 0


def test_a_field_without_rows_says_what_it_should_be() -> None:
    with pytest.raises(
        FedsimError, match="the field 'numbers' of a generation's state is a int, which cannot be indexed by row"
    ):
        Mixed(("a",), 3, Sampling(torch.zeros(1), (1,)), {}).keep([0])  # type: ignore[arg-type]


def test_texts_grow_each_by_its_own_tokens_and_keep_what_was_read() -> None:
    state = TextState(((1, 2), (3,)))
    more = state.append_tokens([[4], [5, 6]])
    assert (more.tokens, len(more)) == (((1, 2, 4), (3, 5, 6)), 2)
    assert state.tokens == ((1, 2), (3,))
    assert more.past is state.past
    with pytest.raises(ValueError, match="zip"):
        state.append_tokens([[4]])


def test_a_condition_has_as_many_rows_as_prompts_and_takes_what_is_given_along() -> None:
    condition = GenerationInputs(((1,), (2, 3)), {"class": torch.tensor([5, 6])})
    assert len(condition) == 2
    assert condition.keep([1]).extra_inputs["class"].tolist() == [6]


def test_a_decoder_asks_for_the_scores_behind_each_row_and_names_rows_without_any() -> None:
    decoder, model = make("greedy"), tiny_llama().eval()
    with torch.no_grad():
        scores = decoder.next_scores(model, TextState(((1, 2), (3,))))
        assert torch.allclose(scores[1], model(torch.tensor([[3]]))[0, -1], rtol=0, atol=1e-9)  # double precision
        with pytest.raises(GenerationError, match="not finite") as raised:
            decoder.next_scores(Breaking(model, token=3, length=1), TextState(((1, 2), (3,))))
    assert raised.value.rows == (1,)
    assert decoder.are_finished(TextState(((1,), (2,)))) == [False, False]


def test_only_the_scores_behind_the_text_must_be_numbers() -> None:
    draft = torch.zeros(2, 3)
    draft[1] = torch.nan
    check_scores([draft, torch.zeros(1, 3)])
    with pytest.raises(GenerationError) as raised:
        check_scores([draft, torch.tensor([[0.0, torch.inf, 0.0]]), draft.flip(0)])
    assert raised.value.rows == (1, 2)
