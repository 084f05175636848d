"""Sensitivities against Jacobians row by row, and slices of equal weight."""

from defenses.core.slices import sensitivities, slices_of
from tests.defenses.stepping import local_step


def test_an_empty_batch_is_sensitive_to_nothing() -> None:
    assert set(sensitivities(local_step(examples=0)).values()) == {0.0}


def test_slices_have_equal_shares_of_the_sensitivity() -> None:
    found = slices_of({"a": 1.0, "b": 3.0}, {"a": 4, "b": 6}, 4)
    assert found["a"].tolist() == [0, 0, 0, 0]
    assert found["b"].tolist() == [1, 1, 2, 2, 3, 3]
    even = slices_of({"a": 0.0, "b": 0.0}, {"a": 4, "b": 6}, 5)
    assert [*even["a"].tolist(), *even["b"].tolist()] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
