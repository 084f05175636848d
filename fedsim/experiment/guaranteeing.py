"""Privacy guarantees over the completed rounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fedsim.core.types import Mechanism
from fedsim.privacy.accounting import compose_rounds, guarantee
from fedsim.record import GuaranteeRecord, RoundRecord
from fedsim.scenario.world import World


def guarantees(world: World, rounds: Sequence[RoundRecord]) -> tuple[GuaranteeRecord, ...]:
    """Return the guarantee of each private mechanism of an arm over the completed rounds."""
    stated = dict(world.facts.client_mechanisms)
    if world.facts.server_mechanism is not None:
        stated[world.scenario.aggregation.name] = world.facts.server_mechanism
    return tuple(_compose_rounds(name, mechanism, rounds) for name, mechanism in stated.items())


def _compose_rounds(source: str, mechanism: Mechanism, rounds: Sequence[RoundRecord]) -> GuaranteeRecord:
    """Compose all rounds if clients are sampled, otherwise the rounds of the most frequent client."""
    is_sampled = mechanism.unit == "client" and mechanism.sampling_rate < 1
    calls = Counter(client for record in rounds for client in record.cohort)
    number = len(rounds) if is_sampled else max(calls.values(), default=0)
    unit = "the whole run" if is_sampled else "the client that was sampled most often"
    stated = guarantee(mechanism, [compose_rounds(mechanism, number)])
    rounds_run = f"{number} {'round' if number == 1 else 'rounds'}"
    fields = {**vars(stated), "composition": f"{stated.composition} in {rounds_run}, those of {unit}"}
    return GuaranteeRecord(
        source=source,
        noise_multiplier=mechanism.noise_multiplier,
        holds_against_server=mechanism.holds_against_server,
        **fields,
    )
