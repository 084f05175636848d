"""Looking ahead: texts that branch are read from where they branch, and a constraint is asked once."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from fedsim.components.decoder._look_ahead import LookAhead, _count_shared, _nearest
from fedsim.components.decoder.awrs import Awrs, AwrsConfig
from fedsim.core.errors import GenerationError
from fedsim.core.nets.kv_cache import DecodingCache
from fedsim.core.types import Limits
from fedsim.generation import generate
from tests.components.generating import VOCABULARY, Breaking, make, prompts, sources, tiny_llama
from tests.core.nets.kv_cache.anew import ROUNDING, anew

TEXTS = [(1, 2), (3,), (1, 2), (1, 2), (4, 5, 6)]
OWNERS = [0, 1, 0, 1, 1]


def counted(model: nn.Module) -> list[int]:
    """The tokens of every pass of a model, fillings counted."""
    read: list[int] = []
    model.get_submodule("embed_tokens").register_forward_pre_hook(lambda _own, inputs: read.append(inputs[0].numel()))
    return read


@torch.no_grad()
def test_branches_have_the_scores_of_reading_anew_and_share_what_was_read() -> None:
    model, ahead = tiny_llama().eval(), LookAhead()
    read = counted(model)
    asked = [
        [(1, 2, 3), (4, 5)],
        [(1, 2, 3, 6), (1, 2, 3, 7), (4, 5, 6)],
        [(1, 2, 3, 7, 8), (1, 2, 3, 7, 9), (1, 2, 3, 6, 6), (4, 5, 6, 1)],
        [(1, 2, 3, 7, 9, 9, 9)],
        [(1, 2, 4)],
    ]
    owners = [[0, 1], [0, 0, 1], [0, 0, 0, 1], [0], [0]]
    sizes: list[int] = []
    for texts, rows in zip(asked, owners, strict=True):
        read.clear()
        found = ahead.scores(model, texts, rows, 2)
        sizes.append(sum(read))
        fresh = torch.cat(DecodingCache().scores(model, texts))
        torch.testing.assert_close(found.scores, fresh, rtol=0, atol=1e-9)  # rounding of doubles
        assert found.text_counts == [rows.count(0), rows.count(1)]
    assert sizes == [2 * 3, 3, 4, 2, 1]


def test_every_token_of_a_particle_or_a_trial_is_read_once() -> None:
    limits, asked = Limits(max_new_tokens=12), prompts([1, 2, 3, 4, 5, 6])
    settings: dict[str, dict[str, Any]] = {
        "awrs": {"particles": 4},
        "cntp": {"max_trials": 4, "low": 0.5, "high": 2.5, "longest": 3},
    }
    for name, setting in settings.items():
        model = tiny_llama().eval()
        read = counted(model)
        (text,) = generate(make(name, **setting), model, asked, limits, sources(1))
        rows = sum(text.trace.series()["rows"])
        # Of a chosen trial, what others went on from meanwhile is read again: at most its own tokens.
        assert sum(read) <= 6 + rows + (len(text.tokens) * 4 if name == "cntp" else 0)
        assert len(text.tokens) == 12


def test_a_constraint_is_asked_once_about_a_token_behind_a_text() -> None:
    class Noting:
        def __init__(self) -> None:
            self.asked: list[tuple[str, tuple[int, ...]]] = []

        def allows(self, tokens: Sequence[int]) -> bool:
            self.asked.append(("allows", tuple(tokens)))
            return not {1, 2, 5, 8} & set(tokens)

        def completes(self, tokens: Sequence[int]) -> bool:
            self.asked.append(("completes", tuple(tokens)))
            return len(tokens) > 2

    noting, limits = Noting(), Limits(max_new_tokens=6, stop_tokens=frozenset({0}))
    method = Awrs(AwrsConfig(particles=6), noting)
    (text,) = generate(method, tiny_llama(), prompts([1, 2]), limits, sources(1))
    assert len(noting.asked) == len(set(noting.asked))
    assert sum(text.trace.series()["calls"]) == len(noting.asked) - 1, "but for the question whether there is a text"
    assert text.trace.series()["particles"][0] == 6


def test_texts_that_branch_end_and_come_back_have_the_scores_of_reading_anew() -> None:
    model, look_ahead, dice = tiny_llama().eval(), LookAhead(), random.Random(0)
    texts = [(1, 2), (1, 2), (3,)]
    with torch.no_grad():
        for _ in range(12):
            found = look_ahead.scores(model, texts, range(len(texts)), len(texts))
            for text, scores in zip(texts, found.scores, strict=True):
                torch.testing.assert_close(scores, anew(model, text), rtol=0, atol=ROUNDING)
            kept = [dice.choice(texts) for _ in range(3)]
            texts = [(*one[: dice.randint(1, len(one))], dice.randrange(VOCABULARY)) for one in kept]


def test_rows_whose_texts_have_no_scores_are_named_by_their_place() -> None:
    model = Breaking(tiny_llama(), token=3, length=1).eval()
    with torch.no_grad(), pytest.raises(GenerationError, match="not finite") as raised:
        LookAhead().scores(model, TEXTS, OWNERS, 3)
    assert list(raised.value.rows) == [1]


def test_the_nearest_text_shares_the_longest_beginning() -> None:
    dice = random.Random(1)
    for _ in range(200):
        texts = sorted({tuple(dice.choices(range(3), k=dice.randint(1, 5))) for _ in range(6)})
        asked = tuple(dice.choices(range(3), k=dice.randint(1, 6)))
        found = _nearest(texts, asked)
        assert found in texts
        assert _count_shared(found, asked) == max(_count_shared(text, asked) for text in texts)
