"""Files of tensors are read in any byte order; others are refused in one sentence that advises nothing dangerous."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.core.nets.tensor_files import read_arrays, read_npz, read_saved


@pytest.mark.parametrize("order", ["<", ">", "="])
def test_numbers_of_either_byte_order_are_the_same(tmp_path: Path, order: str) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, a=np.arange(6, dtype=f"{order}f4").reshape(2, 3), b=np.array([1, 2], dtype=f"{order}i8"))
    found = read_npz(path)
    assert torch.equal(found["a"], torch.arange(6.0).view(2, 3))
    assert torch.equal(found["b"], torch.tensor([1, 2]))


def test_what_torch_saved_is_read(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "t.pt")
    assert torch.equal(read_saved(tmp_path / "t.pt")["a"], torch.ones(2))


def test_a_pipe_is_refused_also_where_it_replaces_the_file_after_a_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.npz"
    os.mkfifo(path)
    with pytest.raises(FedsimError, match=r"t\.npz: it is no regular file\.$"):
        read_arrays(path)
    monkeypatch.setattr(Path, "is_file", lambda self: True)
    with pytest.raises(FedsimError, match=r"t\.npz: it is no regular file\.$"):
        read_arrays(path)


class Foreign:
    """What no file of weights holds."""


@pytest.mark.parametrize("content", [Foreign(), b"no file of torch"])
def test_nobody_is_advised_to_run_a_file(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "t.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save({"a": content}, path)
    with pytest.raises(FedsimError, match="t.pt is no file of weights, or holds more than tensors") as raised:
        read_saved(path)
    assert "weights_only" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match=r"t\.pt cannot be read: .*No such file"):
        read_saved(tmp_path / "t.pt")
    with pytest.raises(FedsimError, match=r"cannot read arrays from .*t\.npz: .*No such file"):
        read_npz(tmp_path / "t.npz")
