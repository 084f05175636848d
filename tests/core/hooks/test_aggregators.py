"""What an aggregation rule promises that says nothing of its own."""

from collections.abc import Iterable
from typing import ClassVar

from torch import Tensor, nn

from fedsim.core.hooks import Aggregator, ServerRound
from fedsim.core.types import Config, Contribution


class First(Aggregator[Config]):
    needs_single_updates: ClassVar[bool] = True

    def combine(self, contributions: Iterable[Contribution], here: ServerRound) -> Tensor:
        return next(iter(contributions)).vector


def test_it_fits_guarantees_nothing_and_weighs_by_examples() -> None:
    own = First(Config())
    assert own.refuses(None, nn.Linear(1, 1)) is None  # type: ignore[arg-type]
    assert own.mechanism(None) is None  # type: ignore[arg-type]
    assert [own.weight(count) for count in (0, 1, 17)] == [0, 1, 17]
    assert not own.acts_without_updates
