"""Lists of digits are held against what is there."""

import pytest
import torch

from benchmarks import damro
from fedsim.bench import grids
from fedsim.core.types import Batch


def test_named_digits_that_are_not_there_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model, digit = grids.fresh(), [grids.WORDS.of(f"d{number}") for number in range(10)]
    labels = torch.tensor([[digit[1], digit[1], digit[4], model.end, -100], [digit[7], model.end, -100, -100, -100]])
    said = [(digit[1], digit[2], digit[1]), (digit[7],)]
    monkeypatch.setattr(damro, "written", lambda *_args, **_settings: said)
    monkeypatch.setattr(damro, "_WAYS", {"it": {}})
    rows = {row.name: row for row in damro.listing_rows(model, Batch(torch.zeros(2, 1, 56, 56), labels))}
    assert (rows["list: CHAIR_i, named and not there"].value, rows["list: CHAIR_i, named and not there"].n) == (25, 4)
    assert rows["list: CHAIR_s, answers that name one"].value == 50
    assert rows["list: digits that are named"].value == pytest.approx(200 / 3)  # 1 and 7 of 1, 4 and 7
    assert rows["list: right as a whole"].value == 50
