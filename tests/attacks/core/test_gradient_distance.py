"""What explains a gradient, computed from the gradient alone."""

from attacks.core.gradient_distance import may_be_exact
from attacks.core.tolerances import MATCHES
from tests.federating import watched


def test_what_is_left_over_rounding_is_not_called_exact() -> None:
    """In single precision 1 - cosine of the right guess is some 1e-7; the bound leaves it a factor of a hundred."""
    observation, _, _ = watched()
    assert MATCHES == 1e-5
    assert may_be_exact(observation, 0.9e-5)
    assert not may_be_exact(observation, 1.1e-5)
