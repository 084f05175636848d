"""What layers hold of a prompt can be cut, row by row."""

import pytest
import torch
from torch import Tensor

from fedsim.core.nets.visual import PromptCache, Stream
from tests.models.vlms import examples, small_vlm


def held(kept: Tensor) -> tuple[PromptCache, Stream]:
    """A layer that read two rows with some visual tokens; each key says its position."""
    hidden, positions = torch.zeros(2, 8, 1), torch.arange(8).expand(2, -1)
    stream = Stream(hidden, positions, torch.arange(4).expand(2, -1), 1, prompt=3).keep_where(kept)
    own = PromptCache(1, 2)
    keys = stream.positions[:, None, :, None].double()
    own.store.update(keys, keys.clone(), 0)
    own.add(0, stream)
    return own, stream


RAGGED = torch.tensor([[True, True, False, True], [False, True, False, False]])


def positions(own: PromptCache) -> list[list[int]]:
    new = torch.full((2, 1, 1, 1), 99.0).double()
    keys, _ = own.store.update(new, new.clone(), 0)
    return [keys[row, 0, :count, 0].long().tolist() for row, count in enumerate(own.store.held[0])]


def test_a_row_holds_the_tokens_that_count() -> None:
    own, _ = held(RAGGED)
    assert own.store.held == [[7, 5]]
    assert positions(own) == [[0, 1, 2, 4, 5, 6, 7], [0, 2, 5, 6, 7]]
    assert own.following[0].tolist() == [8, 8]


def test_a_layer_forgets_visual_tokens() -> None:
    own, _ = held(RAGGED)
    own.keep(0, torch.tensor([[False, True, True], [True, True, True]]))
    assert own.patches[0].tolist() == [[1, 3], [1, -1]]
    assert positions(own) == [[0, 2, 4, 5, 6, 7], [0, 2, 5, 6, 7]]
    own.reindex(0)
    assert own.following[0].tolist() == [6, 5]
    assert own.mask(0, torch.zeros(1)) is not None


def test_rows_of_one_length_need_no_mask() -> None:
    own, _ = held(torch.ones(2, 4).bool())
    assert own.mask(0, torch.zeros(1)) is None
    own.mark_cached(0)
    assert own.store.held == [[9, 9]]
    assert own.following[0].tolist() == [9, 9]


@torch.no_grad()
def test_a_step_behind_a_cut_cache_is_one_with_those_keys_masked() -> None:
    model, (images, question, token) = small_vlm(), examples()
    read = model.begin(model.encode(images, question), question)
    kept = torch.rand(3, 16, generator=torch.Generator().manual_seed(2)) < 0.4
    kept[:, 0] = True
    for layer in (1, 3):
        read.prompt_cache.keep(layer, kept)
    found = model.follow(read, token[:, 0])
    hidden, whole = model.embed_tokens(token), model.begin(model.encode(images, question), question).prompt_cache
    stays = torch.cat((torch.ones(3, 1).bool(), kept, torch.ones(3, 7).bool()), 1)
    for number, block in enumerate(model.layers):
        mask = torch.zeros(3, 1, 1, 24).double()
        if number in (1, 3):
            mask = mask.masked_fill(~stays[:, None, None], -torch.inf)
        hidden = block(
            hidden,
            attention_mask=mask,
            positions=torch.full((3, 1), 23),
            cache=lambda keys, values, number=number: whole.store.update(keys, values, number),
        )
    torch.testing.assert_close(found, model.lm_head(model.norm(hidden))[:, 0])
    with pytest.raises(AssertionError):
        torch.testing.assert_close(found, whole_scores(model, images, question, token))


def whole_scores(model, images: Tensor, question: Tensor, token: Tensor) -> Tensor:
    return model(images, question, token)[:, 1]
