"""What stands for a block: where it acts by default, what it computes, and what a file of it must hold."""

from pathlib import Path

import pytest
import torch

from fedsim.components.core.drop_adapter import (
    DropAdapter,
    LoraDropAdaptersConfig,
    check_blocks,
    every_second,
    read_adapters,
)
from fedsim.core.errors import FedsimError

WIDTH, SETTINGS = 6, LoraDropAdaptersConfig(rank=2, alpha=8.0)


def test_by_default_every_second_block_is_dropped_and_the_last_one_speaks() -> None:
    assert [every_second(depth) for depth in (1, 2, 3, 4, 6)] == [(), (1,), (1,), (1,), (1, 3)]


def test_the_first_block_always_runs() -> None:
    assert check_blocks((1, 2), 3) is None
    assert "from 1 to 2: the model has 3" in (check_blocks((0,), 3) or "")
    assert check_blocks((3,), 3) is not None


def test_a_file_gives_the_adapters_back_and_one_without_them_is_named(tmp_path: Path) -> None:
    drop_adapter = DropAdapter(SETTINGS, 1, torch.zeros(WIDTH, WIDTH), torch.Generator().manual_seed(0))
    torch.nn.init.normal_(drop_adapter.lora_b.weight, generator=torch.Generator().manual_seed(1))
    inputs = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(2))
    expected = 4.0 * inputs @ drop_adapter.lora_a.weight.T @ drop_adapter.lora_b.weight.T  # alpha / rank
    torch.testing.assert_close(drop_adapter(inputs), expected)
    held = {f"model.layers.1.lora_drop.{name}": tensor for name, tensor in drop_adapter.state_dict().items()}
    torch.save(held, tmp_path / "adapters.pt")
    found = read_adapters(tmp_path / "adapters.pt", SETTINGS, WIDTH)
    assert list(found) == [1]
    assert torch.equal(found[1](inputs), drop_adapter(inputs))
    with pytest.raises(FedsimError, match="holds no adapters of width 7"):
        read_adapters(tmp_path / "adapters.pt", SETTINGS, WIDTH + 1)
