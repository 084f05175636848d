"""Ways to run the same ServerApp and ClientApp: in this process, a cohort at a time, on Ray, on real Flower nodes."""

from __future__ import annotations

from fedsim.federation.journal import Journal
from fedsim.scenario.world import shared


def run(world_json: str, journal: Journal) -> None:
    """Run the federation of a resolved scenario to its end, on the engine that it names.

    Raises:
        FedsimError: what the engine lacks, or what went wrong.
        MissingExtra: the engine needs a package that is not installed.
    """
    federation = shared(world_json).scenario.federation
    # Engines are imported late: two of them load parts of Flower that take a second.
    match federation.engine:
        case "local":
            from fedsim.federation.engines import local  # noqa: PLC0415

            local.run(world_json, journal)
        case "vectorized":
            from fedsim.federation.engines import vectorized  # noqa: PLC0415

            vectorized.run(world_json, journal)
        case "ray":
            from fedsim.federation.engines import ray  # noqa: PLC0415

            ray.run(world_json, journal, address=federation.address)
        case "superlink":
            from fedsim.federation.engines import superlink  # noqa: PLC0415

            superlink.run(world_json, journal, address=federation.address)
