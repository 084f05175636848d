"""Hidden units that drop out give away which features were taken from each token, and never a wrong one."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks.batch_separation import _hidden_units
from attacks.batch_separation._hidden_units import hidden_hints
from attacks.core.patches import embedding_site
from fedsim.core import seeding
from tests.attacks.solving import toy

SHAPE = (2, 8, 8)


class Transformer(nn.Module):
    """Patches of 4 x 4 pixels, dropout behind learned positions, one pre-norm block with wide hidden units."""

    def __init__(self, rate: float = 0.5, inner: float = 0.5, hidden: int = 256) -> None:
        super().__init__()
        self.project = nn.Conv2d(2, 64, 4, 4)
        self.position = nn.Parameter(torch.randn(4, 64))
        self.drop = nn.Dropout(rate)
        self.body = nn.TransformerEncoderLayer(64, 4, hidden, dropout=inner, batch_first=True, norm_first=True)
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.drop(self.project(x).flatten(2).transpose(1, 2) + self.position)
        return self.head(self.body(tokens).mean(1))


def build(**settings: Any) -> Transformer:
    with seeding.isolate_randomness(3):
        return Transformer(**settings)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_every_token_has_a_hint_at_its_position_and_sure_features_were_taken() -> None:
    observation, truth = toy(build(), SHAPE, 2, seed=1)
    index = embedding_site(observation)
    assert index is not None
    taken = truth.masks[0][index] == 0  # (images, positions, width)
    hints = hidden_hints(observation, 2, 256, generator())
    assert [len(own) for own in hints] == [2, 2, 2, 2]
    for place, own in enumerate(hints):
        chosen = [int((taken[:, place] & hint.surely).sum(1).argmax()) for hint in own]
        assert sorted(chosen) == [0, 1]
        for image, hint in zip(chosen, own, strict=True):
            assert int(hint.surely.sum()) >= 8  # a quarter of 64 features on average
            assert bool(taken[image, place][hint.surely].all())
            near, far = hint.distances[taken[image, place]], hint.distances[~taken[image, place]]
            assert near.median() < 0.5 * far.median()


@pytest.mark.parametrize("settings", [{"inner": 0.0}, {"hidden": 32}])
def test_without_zeros_or_with_too_few_hidden_units_there_are_no_hints(settings: dict[str, Any]) -> None:
    observation, _ = toy(build(**settings), SHAPE, 2, seed=1)
    assert hidden_hints(observation, 2, 64, generator()) == [[], [], [], []]


def test_a_search_that_would_not_fit_into_memory_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    observation, _ = toy(build(), SHAPE, 2, seed=1)
    monkeypatch.setattr(_hidden_units, "_LARGEST", 200 * 8**2)  # a few of 256 units are off for all tokens
    assert hidden_hints(observation, 2, 64, generator()) == [[], [], [], []]
