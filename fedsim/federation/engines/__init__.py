"""Engines for the same apps: in-process, batched by cohort, on Ray, or on real Flower nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import requires, version

from flwr.serverapp import ServerApp

from fedsim.core.errors import FedsimError
from fedsim.federation import apps
from fedsim.federation.cohort import check as check_cohorts
from fedsim.federation.journal import ServerLog
from fedsim.federation.secure_client import check_largest_sum
from fedsim.scenario.world import World


def check(world: World) -> None:
    """Check before the first round that the scenario's engine supports it.

    Raises:
        FedsimError: a model, a component or a defense does not fit the engine, or a masked sum would not fit its
            modulus.
    """
    if world.scenario.federation.engine == "vectorized":
        check_cohorts(world)
    if world.scenario.secure_aggregation is not None:
        check_largest_sum(world)


def run(world: World, journal: ServerLog) -> None:
    """Run the federation of a world accepted by `check` on the scenario's engine.

    Raises:
        FedsimError: the engine lacks a requirement, or the run failed.
        MissingExtra: the engine needs a package that is not installed.
    """
    if world.scenario.federation.engine != "vectorized":
        serve(world, apps.server_app(world, journal), world.scenario.federation.clients, journal.check_cancelled)
        return
    with _explain_flower("vectorized"):
        from fedsim.federation.engines import vectorized  # noqa: PLC0415

        vectorized.run(world, journal)


def serve(world: World, server: ServerApp, nodes: int, check_cancelled: Callable[[], None]) -> None:
    """Run a ServerApp with clients of a world on the scenario's engine.

    Args:
        world: the clients' world.
        server: the ServerApp.
        nodes: number of clients.
        check_cancelled: called while an engine waits; raises KeyboardInterrupt after a stop request.

    Raises:
        FedsimError: the engine lacks a requirement, or the run failed; `vectorized` has no messages.
        MissingExtra: the engine needs a package that is not installed.
    """
    with _explain_flower(world.scenario.federation.engine):
        _serve(world, server, nodes, check_cancelled)


def _serve(world: World, server: ServerApp, nodes: int, check_cancelled: Callable[[], None]) -> None:
    # Engines are imported lazily: two of them load parts of Flower (a second).
    match world.scenario.federation.engine:
        case "local":
            from fedsim.federation.engines import local  # noqa: PLC0415

            local.serve(world, server, nodes)
        case "ray":
            from fedsim.federation.engines import ray  # noqa: PLC0415

            ray.serve(world, server, nodes)
        case "superlink":
            from fedsim.federation.engines import superlink  # noqa: PLC0415

            superlink.serve(world, server, nodes, check_cancelled)
        case "vectorized":
            raise FedsimError("the engine 'vectorized' has no messages. Set federation.engine = 'local'.")


@contextmanager
def _explain_flower(engine: str) -> Iterator[None]:
    """Replace import errors of Flower by a message with the supported versions."""
    try:
        yield
    except ImportError as error:
        if not (error.name or "").startswith("flwr"):
            raise
        requirement = next(line for line in requires("fedsim-privacy") or ["flwr"] if line.startswith("flwr"))
        raise FedsimError(
            f"the engine '{engine}' does not run on flwr {version('flwr')}, which lacks "
            f"{error.name}. Install a supported version: pip install '{requirement}'"
        ) from error
