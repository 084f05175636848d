"""oracle-tokens keeps the asked cell first, then filled cells, by enumeration."""

from dataclasses import replace

import pytest
import torch

from fedsim.core.errors import NotApplicable
from fedsim.core.nets.visual import visual_passes
from tests.models.vlms import CELLS, WORDS, examples, prepared, small_vlm


def painted(filled: list[int]) -> torch.Tensor:
    """An image of weak noise, with a digit's brightness in some of the 2 x 2 cells."""
    image = 0.1 * torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0)).double()
    for cell in filled:
        row, column = divmod(cell, CELLS)
        image[:, :, 14 * row + 5, 14 * column + 5] = 0.9
    return image


def asked(*words: str) -> torch.Tensor:
    return torch.tensor([[WORDS.of(own) for own in (*words, "<pad>")][:4]])


def kept(count: int, image: torch.Tensor, question: torch.Tensor) -> list[int]:
    model = prepared("oracle-tokens", kept=count)
    with torch.no_grad(), visual_passes(model) as passes:
        model(image, question)
    return passes[0].patches[0][0].tolist()


def cell(number: int) -> set[int]:
    row, column = divmod(number, CELLS)
    return {4 * (2 * row + i) + 2 * column + j for i in range(2) for j in range(2)}


@pytest.mark.parametrize("number", range(4))
def test_the_asked_cell_comes_first_then_filled_ones(number: int) -> None:
    question = asked("what", "is", f"r{number // CELLS}", f"c{number % CELLS}")
    assert set(kept(4, painted([3]), question)) == cell(number)
    if number != 3:
        assert set(kept(8, painted([3]), question)) == cell(number) | cell(3)


def test_without_an_asked_cell_every_filled_cell_gives_its_brightest_patch_first() -> None:
    question, image = asked("is", "there", "d7"), painted([1, 2])
    assert kept(2, image, question) == [2, 8]
    assert set(kept(8, image, question)) == cell(1) | cell(2)


@torch.no_grad()
def test_all_tokens_are_the_model_itself() -> None:
    assert torch.equal(prepared("oracle-tokens", kept=16)(*examples()), small_vlm()(*examples()))


def test_words_that_name_no_cells_are_refused() -> None:
    model = small_vlm()
    model.visual = replace(model.visual, words=())
    with pytest.raises(NotApplicable, match="needs words that name rows and columns"):
        prepared("oracle-tokens", model)
