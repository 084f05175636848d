"""What mechanisms guaranteed over the rounds that were run, against their composition by hand."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fedsim.core.types import Mechanism
from fedsim.experiment.guaranteeing import guarantees
from fedsim.privacy.accounting import compose_rounds as spent
from fedsim.privacy.accounting import epsilon
from fedsim.record import GuaranteeRecord, RoundRecord

Stated = Callable[..., tuple[GuaranteeRecord, ...]]
RECORD = Mechanism("record", "add-or-remove", 1.0, 0.1, 5, 1e-5, "the server")
CLIENT = replace(RECORD, unit="client", steps=1, adversary="the others", holds_against_server=False)


def rounds(*cohorts: tuple[int, ...]) -> list[RoundRecord]:
    return [
        RoundRecord(round=n, cohort=cohort, participants=cohort, training_loss=1.0)
        for n, cohort in enumerate(cohorts, 1)
    ]


def stated(records: list[RoundRecord], client: Any, server: Any = None) -> tuple[GuaranteeRecord, ...]:
    facts = SimpleNamespace(client_mechanisms={"dp-sgd": client} if client else {}, server_mechanism=server)
    scenario = SimpleNamespace(aggregation=SimpleNamespace(name="dp-fedavg"))
    return guarantees(SimpleNamespace(facts=facts, scenario=scenario), records)  # type: ignore[arg-type]


def test_records_are_guaranteed_for_the_client_that_was_asked_most_often() -> None:
    (own,) = stated(rounds((0, 1), (1, 2), (1,), (0,)), RECORD)
    assert own.source == "dp-sgd"
    assert own.epsilon == pytest.approx(epsilon([spent(RECORD, 3)], 1e-5).value)
    assert own.composition.endswith("in 3 rounds, those of the client that was sampled most often")
    assert own.holds_against_server


@pytest.mark.slow
def test_where_clients_are_sampled_every_round_counts() -> None:
    (own,) = stated(rounds((0,), (), (1,)), None, CLIENT)
    assert (own.source, own.unit, own.holds_against_server) == ("dp-fedavg", "client", False)
    assert own.epsilon == pytest.approx(epsilon([spent(CLIENT, 3)], 1e-5).value)
    assert own.composition.endswith("in 3 rounds, those of the whole run")


def test_clients_that_are_not_sampled_are_counted_one_by_one() -> None:
    (own,) = stated(rounds((0,), (1,)), None, replace(CLIENT, sampling_rate=1.0))
    assert own.composition.endswith("in 1 round, those of the client that was sampled most often")


def test_without_a_mechanism_nothing_is_stated_and_without_rounds_nothing_is_spent() -> None:
    assert stated(rounds((0,)), None) == ()
    (own,) = stated([], RECORD)
    assert own.epsilon == 0.0
