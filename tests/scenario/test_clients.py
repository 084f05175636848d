"""The tables of the federation refuse what contradicts itself."""

from typing import Any

import pytest
from pydantic import ValidationError

from fedsim.scenario.clients import Federation, LabelNoise, Participation, Partition


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"address": "here:1"}, "engine 'local' runs in this process: leave address out"),
        ({"certificates": "ca.pem"}, "certificates are for an external SuperLink: set engine"),
        (
            {"certificates": "ca.pem", "address": "here:1", "engine": "ray"},
            "certificates are for an external SuperLink",
        ),
        ({"local_steps": 2}, "fedsgd sends a single gradient: local_steps must be 1"),
        ({"local_epochs": 1}, "fedsgd sends a single gradient"),
        ({"algorithm": "fedavg", "local_steps": 2, "local_epochs": 1}, "local_steps and local_epochs exclude"),
        ({"batch_size": 0}, "greater than or equal to 1"),
    ],
)
def test_a_federation_says_one_thing(own: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Federation.model_validate(own)


def test_what_a_client_sends_follows_from_the_algorithm() -> None:
    assert Federation().sends == "gradient"
    assert Federation(algorithm="fedavg", local_epochs=2).sends == "delta"
    assert Federation(engine="ray", address="here:1").address == "here:1"


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"cohort": 2, "fraction": 0.5}, "cohort and fraction exclude each other"),
        ({"drop_before": 0.5, "crash": 0.4, "drop_after": 0.2}, "add up to 1.1, expected at most 1"),
        ({"fraction": 0.0}, "greater than 0"),
        ({"slow_factor": 0.5}, "greater than or equal to 1"),
        ({"drop_during": 1.5}, "less than or equal to 1"),
        ({"availability": 0}, "greater than 0"),
        ({"deadline": 0}, "greater than 0"),
    ],
)
def test_chances_of_a_client_add_up_to_one_at_most(own: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Participation.model_validate(own)


@pytest.mark.parametrize("own", [{"drop_before": 0.1}, {"drop_during": 0.1}, {"drop_after": 0.1}, {"crash": 0.1}])
def test_any_chance_makes_rounds_eventful(own: dict[str, Any]) -> None:
    assert Participation.model_validate(own).is_eventful
    assert Participation(deadline=3.0).is_eventful
    assert not Participation(cohort=2, availability=0.5, slow_fraction=0.5).is_eventful


def test_shares_and_noise_are_bounded() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        Partition(alpha=0.0)
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        LabelNoise(rate=1.1)
