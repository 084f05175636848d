"""What defenses cost and leave, as a picture."""

import pytest

from fedsim.audit import figures
from fedsim.judgement.policy import Policy
from tests.audit.findings import defended, record

pytestmark = pytest.mark.draws


def test_every_defense_that_was_attacked_and_trained_is_a_point_beside_the_control() -> None:
    bare = defended("late", 0, 0.0).model_copy(update={"cost": None})
    picture = figures.defenses(record(Policy(), tried=(defended("weak", 30, 0.02), defended("strong", 0, 0.1), bare)))
    assert picture.png.startswith(b"\x89PNG")
    assert "weak: 75 % recovered, 2.0 points lost" in picture.alt
    assert "none (control): 100 % recovered, 0.0 points lost" in picture.alt
    assert "late" not in picture.alt
    assert [row[0] for row in picture.rows] == ["control", "weak", "strong", "late"]
