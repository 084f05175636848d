"""Tables of membership and audits: what does not fit together."""

from typing import Any

import pytest
from pydantic import ValidationError

from fedsim.scenario.judging import AuditSettings, Membership


@pytest.mark.parametrize(
    ("attacks", "twice"),
    [
        ([{"name": "lira"}, {"name": "lira"}], "lira"),
        ([{"name": "lira", "label": "a"}, {"name": "rmia", "label": "a"}], "a"),
    ],
)
def test_two_attacks_of_one_label_are_refused(attacks: list[dict[str, Any]], twice: str) -> None:
    with pytest.raises(ValidationError, match=f"two attacks are reported as '{twice}'. Give one a label"):
        Membership.model_validate({"attacks": attacks})


def test_of_two_alike_one_may_have_a_label() -> None:
    own = Membership.model_validate({"attacks": [{"name": "lira"}, {"name": "lira", "label": "b"}]})
    assert [attack.label for attack in own.attacks] == ["", "b"]


def test_nobody_guesses_about_more_canaries_than_there_are() -> None:
    assert AuditSettings(canaries=100, guesses=100).guesses == 100
    with pytest.raises(ValidationError, match="guesses is 102, expected at most 100, the canaries"):
        AuditSettings(canaries=100, guesses=102)
    with pytest.raises(ValidationError, match="multiple of 2"):
        AuditSettings(guesses=3)
