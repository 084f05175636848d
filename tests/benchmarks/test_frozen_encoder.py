"""A frozen encoder tells as many numbers as the features of kept tokens have."""

import pytest

from benchmarks import frozen_encoder as own

WIDTH = 16
SMALL = {"encoder_width": WIDTH, "encoder_hidden": 16, "encoder_blocks": 2, "width": 16, "hidden": 16, "blocks": 2}


@pytest.mark.slow
@pytest.mark.parametrize(("arm", "kept"), [("1 random", 1), ("4 random", 4)])
def test_a_kept_token_says_as_many_numbers_as_its_normed_feature(
    arm: str, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = own.world_of
    monkeypatch.setattr(own, "world_of", lambda name: world(name, SMALL))
    rows = {row.name: row for row in own.counted(arm, 1)}
    # The norm takes a feature's length nearly away: its derivative is as small as what keeps it from dividing by 0.
    assert kept * (WIDTH - 1) <= rows["directions of 784"].value <= kept * WIDTH
    assert rows["ceiling"].value > own.blind().value


def test_the_encoder_sends_nothing_and_the_projector_does() -> None:
    names = set(own.sent_by(own.world_of("all 16", SMALL), 0).entry.update.tensors)
    assert not any(name.startswith(("patches", "class_token", "positions", "encoder")) for name in names)
    assert any(name.startswith("projector") for name in names)
