"""Lengths of rows and columns by hand, and what they say of a linear model in closed form."""

import math

import pytest
import torch

from attacks.attributes._reading import ReadingConfig
from attacks.attributes.change_norms import ChangeNorms
from tests.attacks.attributes.changes import always, share

ATTACK = ChangeNorms(ReadingConfig())


def test_rows_columns_and_entries_are_measured_against_the_typical_one() -> None:
    change = {"weight": torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "bias": torch.tensor([-1.0, 1.0])}
    kept = ATTACK.describe(change, torch.Generator()).tolist()
    rows, columns = 5 / math.sqrt(2), [3 / math.sqrt(12.5), 4 / math.sqrt(12.5)]
    lengths = [5 / rows, 0.0, *columns, 1.0, 1.0]
    assert kept == pytest.approx([math.log(length + 1e-3) for length in lengths], abs=1e-6)  # single precision


def test_the_length_of_a_change_and_signs_of_rows_do_not_matter() -> None:
    change = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    one, two = (ATTACK.describe({"w": own}, torch.Generator()) for own in (change, -8 * change))
    assert torch.allclose(one, two)


def test_a_sign_that_lengths_do_not_show_is_not_read() -> None:
    assert 0.35 < share(ATTACK, always) < 0.65  # 120 coins: five standard deviations are 0.23
