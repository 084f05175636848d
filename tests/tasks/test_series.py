"""Windows and what follows them from the update of a client that foretells."""

import pytest

from tests.tasks.targets import Build, attacked, scored, victim


@pytest.mark.parametrize(("attack", "batch_size"), [("closed-form-linear", 1), ("span-intersection", 4)])
def test_windows_and_what_follows_come_back(scenario: Build, attack: str, batch_size: int) -> None:
    one = victim(scenario, batch_size, data={"name": "made-series", "windows": 100})
    record = scored(one, attacked(one, attack))
    assert [item.values["row_exact"] for item in record.scores] == [1.0] * batch_size
    assert [item.values["target_read"] for item in record.scores] == [1.0] * batch_size
    assert all(item.values["target_error_guessed"] > 0.1 for item in record.scores)
