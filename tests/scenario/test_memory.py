"""Models that do not fit into memory are refused before torch asks for it."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fedsim.core.errors import FedsimError
from fedsim.scenario import memory
from fedsim.scenario.memory import free, refusing_too_large


def test_the_smallest_room_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (free() or 0) > 1 << 20
    for name, room in (("_machine_memory", 30), ("_group_memory", None), ("_process_memory", 20)):
        monkeypatch.setattr(memory, name, lambda room=room: room)
    assert free() == 20
    for name in ("_machine_memory", "_process_memory"):
        monkeypatch.setattr(memory, name, lambda: None)
    assert free() is None
    with refusing_too_large("a model"):
        torch.empty(3)


def test_a_layer_that_is_too_large_is_never_made() -> None:
    words = r"model 'mlp' needs more than [\d.]+ GiB .* GiB of memory are free. Make"
    with pytest.raises(FedsimError, match=words), refusing_too_large("model 'mlp'"):
        nn.Linear(1 << 24, 1 << 24)


def test_weights_and_their_gradient_are_counted_over_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 2 * 4 * (10 * 10 + 10 + 10 * 10)
    for room in (size, size - 1):
        monkeypatch.setattr(memory, "free", lambda room=room: room)
        with refusing_too_large("it"):
            nn.Linear(10, 10)
            if room == size:
                torch.zeros(10, 10)
            else:
                with pytest.raises(FedsimError):
                    torch.zeros(10, 10)


def test_a_model_that_fits_has_the_same_weights() -> None:
    torch.manual_seed(1)
    bare = nn.Linear(5, 7)
    torch.manual_seed(1)
    with refusing_too_large("it"):
        counted = nn.Linear(5, 7)
    assert torch.equal(bare.weight, counted.weight)


@pytest.mark.parametrize(
    "make", [lambda: torch.ones(8, 4), lambda: torch.ones((8, 4)), lambda: torch.ones(size=(8, 4))]
)
def test_sizes_are_read_in_each_way_of_saying_them(monkeypatch: pytest.MonkeyPatch, make: Callable[[], object]) -> None:
    monkeypatch.setattr(memory, "free", lambda: 2 * 4 * 32 - 1)
    with refusing_too_large("it"), pytest.raises(FedsimError):
        make()
