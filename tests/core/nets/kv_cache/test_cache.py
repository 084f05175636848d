"""What a model has read: the scores of reading everything anew, for any texts, drafts, layers and rows that leave."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from fedsim.core.errors import FedsimError
from fedsim.core.nets.kv_cache import DecodingCache, Draft, key_values
from fedsim.core.nets.kv_cache import cache as module
from tests.components.generating import VOCABULARY, Breaking, KeepPositive, tiny_llama
from tests.core.nets.kv_cache.anew import ROUNDING, TREE, anew, check


@contextmanager
def counted(model: nn.Module) -> Iterator[list[int]]:
    """Count the tokens that the embedding reads in each pass."""
    counts: list[int] = []
    hook = model.get_submodule("embed_tokens").register_forward_hook(
        lambda _m, args, _o: counts.append(args[0].numel())
    )
    yield counts
    hook.remove()


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def model() -> nn.Module:
    return tiny_llama().eval()


def test_rows_of_any_lengths_grow_by_any_number_of_tokens(model: nn.Module) -> None:
    source, past = random.Random(0), DecodingCache()
    texts = [[1], [2] * 5, [3, 4], [5] * 70]
    for _ in range(8):
        check(past, model, texts)
        texts = [[*text, *source.choices(range(VOCABULARY), k=source.randint(1, 3))] for text in texts]


def test_no_token_is_read_twice(model: nn.Module) -> None:
    past, text = DecodingCache(), [1, 2, 3, 4]
    with counted(model) as counts:
        for token in range(5, 10):
            past.scores(model, [text])
            text.append(token)
    assert counts == [4, 1, 1, 1, 1]
    assert past.lengths == [8]
    assert past.key_counts == [[8], [8]]


@pytest.mark.parametrize("short", [0, 6, 1000])
def test_short_and_long_texts_are_kept_alike(model: nn.Module, monkeypatch: pytest.MonkeyPatch, short: int) -> None:
    monkeypatch.setattr(key_values, "_SHORT", short)
    monkeypatch.setattr(key_values, "_LEAST", 4)
    past = DecodingCache()
    texts = [[1, 2], [3, 4]]
    for token in (5, 6, 7):
        check(past, model, texts)
        for text in texts:
            text.append(token)
    texts[1] = [3, 4, 9]  # back, so that rows differ, and on
    for token in (8, 1, 2):
        check(past, model, texts)
        for text in texts:
            text += [token, 3]
    check(past, model, texts)


def test_a_text_that_takes_another_way_is_read_from_there(model: nn.Module) -> None:
    source, past = random.Random(1), DecodingCache()
    text = [1, 2, 3]
    for _ in range(30):
        text = text[: source.randint(1, len(text))] + source.choices(range(VOCABULARY), k=source.randint(0, 4))
        check(past, model, [text, text[::-1]])
        assert past.key_counts == [[len(text)] * 2] * 2
    with counted(model) as counts:
        check(past, model, [[*text, 7], [*text[::-1], 7]])
    assert counts[0] == 2, "one for each row; the other passes are those of the check"


def test_every_node_of_a_tree_has_the_scores_of_its_branch(model: nn.Module) -> None:
    texts = [[1, 2, 3], [4]]
    for scores in (
        DecodingCache().scores(model, texts, [TREE, Draft.line([2, 2])]),
        module._anew(model, texts, [TREE, Draft.line([2, 2])]),
    ):
        ways = [[], [3], [4], [3, 5], [4, 3], [3, 5, 6]], [[], [2], [2, 2]]
        for text, score, behind in zip(texts, scores, ways, strict=True):
            assert len(score) == len(behind)
            for row, way in zip(score, behind, strict=True):
                torch.testing.assert_close(row, anew(model, [*text, *way]), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("way", [[], [3], [4], [3, 5], [4, 3], [3, 5, 6], [4, 9], [3, 4]])
def test_the_way_that_a_text_took_is_kept_and_the_others_are_forgotten(model: nn.Module, way: list[int]) -> None:
    past, texts = DecodingCache(), [[1, 2, 3], [4]]
    past.scores(model, texts, [TREE, Draft.line([2, 2])])
    after = [[*texts[0], *way, 8], [4, 2, 2, 9]]
    shared = len(TREE.follow(way))
    with counted(model) as counts:
        check(past, model, after)
    assert counts[0] == 2 * (1 + len(way) - shared)  # rows are filled up to the longest
    assert past.key_counts == [[len(own) for own in after]] * 2
    check(past, model, [[*own, 1] for own in after])


def test_rows_leave_and_come_twice_and_the_copy_changes_nothing(model: nn.Module) -> None:
    past, texts = DecodingCache(), [[1, 2, 3], [4], [5, 6]]
    past.scores(model, texts, [TREE, Draft(), Draft.line([1])])
    copy = past.keep([2, 0, 0])
    check(copy, model, [[5, 6, 1, 1], [1, 2, 3, 4, 3, 8], [1, 2, 3, 3, 5, 6]])
    check(past, model, [[*text, 1] for text in texts])
    assert DecodingCache().keep([0, 1]).lengths == []


def test_layers_are_run_as_they_are_asked_for_and_deepened_later(model: nn.Module) -> None:
    past, text = DecodingCache(), [1, 2, 3, 4]
    check(past, model, [text])
    seen: dict[int, list[Tensor]] = {0: [], 1: []}
    for token in (5, 6):
        text.append(token)
        hidden, counts = past.states(model, [text], layers=[0], seen=lambda layer, own: seen[layer].append(own))
        assert counts == [1]
        torch.testing.assert_close(hidden, seen[0][-1])
    assert past.key_counts == [[6], [4]]
    deep = past.deepen(torch.cat(seen[0], 1), [1], seen=lambda layer, own: seen[layer].append(own))
    assert past.key_counts == [[6], [6]]
    stack = model.stack()  # type: ignore[operator]
    for place in (0, 1):
        torch.testing.assert_close(stack.score(deep)[0, place], anew(model, text[: 5 + place]), rtol=0, atol=ROUNDING)
    check(past, model, [[1, 2, 3, 4, 5, 9]])
    assert past.key_counts == [[6], [6]]
    text.append(7)
    past.scores(model, [[1, 2, 3, 4, 5, 9, 7]], layers=[1])
    assert past.key_counts == [[6], [7]]
    past.scores(model, [[1, 2, 3, 4, 8]])
    assert past.key_counts == [[5], [5]], "every layer forgets what it holds of the tokens that left, and no more"


def test_the_first_layers_alone_are_a_model_of_its_own(model: nn.Module) -> None:
    (scores,) = DecodingCache().scores(model, [[1, 2, 3]], layers=[0])
    shallow = tiny_llama().eval()
    del shallow.get_submodule("layers")[1]  # type: ignore[operator]
    torch.testing.assert_close(scores[0], anew(shallow, [1, 2, 3]), rtol=0, atol=ROUNDING)


def test_a_long_text_is_read_in_parts(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 4)
    with counted(model) as counts:
        past, texts = DecodingCache(), [list(range(14)), [1, 2]]
        check(past, model, texts)
    assert max(counts[:-2]) == 2 * 4
    assert past.key_counts == [[14, 2]] * 2
    check(past, model, [[*text, 5] for text in texts])


def test_a_model_that_cannot_be_taken_apart_is_read_anew(model: nn.Module) -> None:
    texts = [[1, 2, 3], [4]]
    plain = DecodingCache().scores(model, texts, [TREE, Draft()])
    listened = tiny_llama().eval()
    calls: list[int] = []
    listened.register_forward_hook(lambda *_: calls.append(1))
    reducing = tiny_llama().eval()
    reducing.add_module("reducer", KeepPositive())
    for other in (nn.Sequential(model), listened, reducing):
        past = DecodingCache()
        for score, own in zip(past.scores(other, texts, [TREE, Draft()]), plain, strict=True):
            torch.testing.assert_close(score, own, rtol=0, atol=ROUNDING)
        assert past.lengths == []
        with pytest.raises(FedsimError, match="cannot find the layers of this model"):
            past.scores(other, texts, layers=[0])
    assert calls


def test_a_model_of_another_make_says_how_its_layers_run(model: nn.Module) -> None:
    breaking, texts = Breaking(model, token=4, length=3), [[1, 2, 3], [4]]
    past = DecodingCache()
    for more in ([], [5], [5, 6], [5, 6, 7]):
        for text, score in zip(texts, past.scores(breaking, [[*own, *more] for own in texts]), strict=True):
            torch.testing.assert_close(score[0], anew(breaking, [*text, *more]), rtol=0, atol=ROUNDING, equal_nan=True)
    assert past.key_counts == [[6, 4]] * 3


def test_with_gradients_everything_is_read_so_that_they_reach_every_token(model: nn.Module) -> None:
    past = DecodingCache()
    past.scores(model, [[1, 2, 3]])
    with torch.enable_grad():
        past.scores(model, [[1, 2, 3, 4]])[0].sum().backward()
    gradient = model.get_parameter("embed_tokens.weight").grad
    assert gradient is not None
    assert gradient[1:5].abs().sum(1).gt(0).all()
    check(past, model, [[1, 2, 3, 4]])


def test_another_model_is_read_from_the_beginning(model: nn.Module) -> None:
    past, other = DecodingCache(), tiny_llama(seed=1).eval()
    for own in (model, other, model):
        check(past, own, [[1, 2, 3, 4]])


def test_half_a_read_leaves_nothing_behind(model: nn.Module) -> None:
    past = DecodingCache()
    check(past, model, [[1, 2]])

    def fail(*_: object) -> None:
        raise ValueError("in the middle")

    hook = model.get_submodule("layers.1").register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match="in the middle"):
        past.scores(model, [[1, 2, 3]])
    hook.remove()
    check(past, model, [[1, 2, 3, 4]])
    assert past.key_counts == [[4], [4]]
