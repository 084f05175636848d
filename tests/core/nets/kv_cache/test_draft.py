"""Drafts as trees, against walks from every node up to the text."""

import itertools

import pytest
import torch

from fedsim.core.nets.kv_cache import Draft
from tests.core.nets.kv_cache.anew import TREE


def way(draft: Draft, node: int) -> list[int]:
    return [*way(draft, draft.parents[node]), node] if node >= 0 else []


def test_a_line_has_one_branch_and_sees_what_came_before() -> None:
    line = Draft.line([4, 5, 6])
    assert line == Draft((4, 5, 6), (-1, 0, 1))
    assert line.depths() == [1, 2, 3]
    assert line.ways() == [[0, 1, 2]]
    assert torch.equal(line.sees(), torch.ones(3, 3, dtype=torch.bool).tril())


@pytest.mark.parametrize("limit", [1, 3, 5, 99])
def test_a_tree_shares_beginnings_and_is_cut_where_it_is_deepest(limit: int) -> None:
    paths = [(1, 2, 3), (1, 4), (2,), (1, 2, 5)]
    tree = Draft.tree(paths, limit)
    whole = {path[:end] for path in paths for end in range(1, len(path) + 1)}
    texts = [tuple(tree.tokens[node] for node in way(tree, number)) for number in range(len(tree))]
    assert len(set(texts)) == len(texts) == min(limit, len(whole))
    assert set(texts) <= whole
    assert [*map(len, texts)] == sorted(map(len, texts))
    assert max(map(len, texts)) <= min((len(own) for own in whole - set(texts)), default=9)


def test_depths_sight_and_ways_are_those_of_walks() -> None:
    for draft in (TREE, Draft(), Draft.line([1]), Draft((1, 1, 2), (-1, -1, 1))):
        walks = [way(draft, node) for node in range(len(draft))]
        assert draft.depths() == [*map(len, walks)]
        assert [row.nonzero().flatten().tolist() for row in draft.sees()] == walks
        ends = [node for node in range(len(draft)) if node not in draft.parents]
        assert draft.ways() == ([walks[node] for node in ends] or [[]])


def test_a_text_is_followed_as_far_as_a_branch_goes() -> None:
    for length in range(4):
        for text in itertools.product(range(3, 7), repeat=length):
            nodes = TREE.follow(text)
            spelled = [TREE.tokens[node] for node in nodes]
            assert spelled == list(text[: len(nodes)])
            assert nodes == (way(TREE, nodes[-1]) if nodes else [])
            if len(nodes) < length:
                assert text[len(nodes)] not in TREE.children(nodes[-1] if nodes else -1)


def test_of_two_children_with_one_token_the_first_counts() -> None:
    assert Draft((7, 7), (-1, -1)).children(-1) == {7: 0}
