"""Masked sums that are told element by element, over Flower's messages: the same as with a trusted party."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.experiment.runner import model_hash
from fedsim.federation import apps, engines
from fedsim.federation.journal import ServerLog
from fedsim.federation.secure_client import PROTOCOL, answer_stage
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.threat.observe import describe
from fedsim.threat.replay import replay
from tests.experiment.running import Build
from tests.federating import run
from tests.federation.secured import SUM, Tapped, failures

TABLES: dict[str, Any] = {
    "model": {"name": "mlp", "width": 8, "depth": 1, "dropout": 0.5},
    "federation": {"algorithm": "fedsgd", "clients": 6, "rounds": 2, "batch_size": 2},
    "threat": {**SUM, "rounds": [2]},
}


def both(scenario: Build, least: int = 4, **tables: Any) -> tuple[Scenario, Scenario]:
    """The same scenario with a trusted party and with the protocol."""
    settings: dict[str, Any] = {"least_contributors": least, "threshold": 0.51}
    built = [scenario(**{**TABLES, **tables}, secure_aggregation={**settings, "mode": m}) for m in ("ideal", "masked")]
    return built[0], built[1]


def test_masks_tell_bit_for_bit_what_a_trusted_party_tells(scenario: Build) -> None:
    ideal, masked = both(scenario, participation={"drop_before": 0.1, "drop_after": 0.1})
    expected, found = run(ideal), run(masked)
    assert any(record.failures for record in found.rounds)
    assert [record.model_dump_json() for record in found.rounds] == [
        record.model_dump_json() for record in expected.rounds
    ]
    assert model_hash(found.weights) == model_hash(expected.weights)
    (entry,), (told) = found.entries, expected.entries[0].update.tensors
    assert all(tensor.equal(told[name]) for name, tensor in entry.update.tensors.items())
    assert 0.0 < float((entry.update.tensors["1.weight"] == 0).double().mean()) < 1.0
    assert replay(worlds.build(masked), entry).matches


@dataclass
class Meddling(Tapped):
    """A wire on which answers are lost, or messages of the server are changed, at one stage."""

    lost: tuple[str, int] = ("", 0)
    forged: Callable[[bytes], bytes] | None = None

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        for message in self._changed(messages):
            for reply in super().send_and_receive([message], timeout=timeout):
                if (reply.metadata.message_type, reply.metadata.src_node_id) != self.lost:
                    yield reply

    def _changed(self, messages: Iterable[Message]) -> Iterable[Message]:
        for message in messages:
            if self.forged and message.metadata.message_type == "query.open":
                record = message.content.config_records[PROTOCOL]
                record["total"] = self.forged(record["total"])  # type: ignore[arg-type]
            yield message


def served(grid: Meddling) -> ServerLog:
    journal = ServerLog(lambda _record: None)
    grid.serve(apps.server_app(grid.world, journal))
    return journal


def test_who_uploads_and_then_falls_silent_is_in_the_sum(scenario: Build) -> None:
    ideal, masked = both(scenario)
    grid = Meddling(masked, lost=("query.open", 3))
    assert model_hash(served(grid).weights) == model_hash(run(ideal).weights)
    stages = [reply.metadata.message_type for reply in grid.replies]
    # Round by round: six open, of whom one is not heard, and the five others supply shares.
    assert [stages.count(f"query.{stage}") for stage in ("open", "supply")] == [2 * 6, 2 * 5]


def test_a_round_whose_counts_were_forged_is_aborted(scenario: Build) -> None:
    _, masked = both(scenario)
    journal = served(Meddling(masked, forged=lambda total: bytes([total[0] ^ 1]) + total[1:]))
    assert failures(journal) == [(1, "round", "aborted"), (2, "round", "aborted")]
    assert "0 of 6 clients opened their masks, but at least 4 must" in journal.rounds[0].failures[0].reason
    assert model_hash(journal.weights) == model_hash(worlds.build(masked).models.first_weights)
    assert not journal.entries


def test_the_threat_model_says_what_is_concealed(scenario: Build) -> None:
    for built, who in zip(
        both(scenario), ("a trusted party adds the updates", "each upload looks random"), strict=True
    ):
        text = " ".join(describe(worlds.build(built)))
        assert who in text
        assert "For an element that fewer than 4 clients changed it learns only this fact." in text


def test_what_cannot_be_counted_is_refused(scenario: Build) -> None:
    settings: dict[str, Any] = {"mode": "masked", "least_contributors": 2}
    with pytest.raises(ScenarioError, match=r"neighbours is 2, but mode = 'masked' counts .* Leave out neighbours"):
        scenario(**TABLES, secure_aggregation={**settings, "neighbours": 2})
    built = scenario(**TABLES, secure_aggregation={**settings, "levels": 16, "modulus_bits": 20})
    with pytest.raises(ScenarioError, match=r"secure_aggregation.modulus_bits is 20, but counts of 6 clients need at"):
        engines.check(worlds.build(built))


def test_a_client_of_plain_sums_knows_no_stages_of_others(scenario: Build) -> None:
    built = scenario(**TABLES, secure_aggregation={"mode": "masked"})
    order = RecordDict({"config": ConfigRecord({"round": 1, "cohort": 6})})
    with pytest.raises(FedsimError, match="requests 'open', which only per-element sums have"):
        answer_stage("open", worlds.build(built), 0, order, RecordDict())
