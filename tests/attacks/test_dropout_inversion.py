"""The main claim end to end: dropout fools IG, and not DIA. Real images, through the whole pipeline."""

import pytest

from benchmarks import dropout_inversion
from benchmarks._rows import Row, as_table


def held(rows: list[Row]) -> dict[str, bool]:
    print(as_table(rows))
    return {row.name: row.holds for row in rows}


def test_dropout_fools_ig_and_not_dia_on_eight_digits() -> None:
    expected = {"IG": True, "DIA": True, "WIIG": True, "closed form": True}
    assert held(dropout_inversion.mlp_on_mnist()) == expected


@pytest.mark.slow
def test_dropout_fools_ig_and_not_dia_on_a_transformer() -> None:
    assert held(dropout_inversion.transformer_on_cifar10()) == {"IG": True, "DIA": True, "WIIG": True}
