"""Flower's own SecAgg+, of its legacy stack, on the local engine, against ours."""

import logging
import random

import numpy as np
import pytest
import torch
from flwr.app import Context, RecordDict

from fedsim.core import seeding
from fedsim.federation.engines.local import LocalGrid
from fedsim.privacy.secure_aggregation.config import SecureAggregation
from fedsim.privacy.secure_aggregation.quantisation import weighted_levels, weighted_mean

LENGTH = 300
LARGEST_WEIGHT = 100


def examples(client):
    return 5 + 4 * client


def vector(client):
    drawn = torch.randn(LENGTH, generator=seeding.generator(8, "flower", client), dtype=torch.float64)
    return (drawn * 0.5).clamp(-1, 1)


def flowers_mean(clients):
    """One round of Flower's SecAgg+ in this process: what its strategy gets as the new parameters."""
    from flwr.client import NumPyClient
    from flwr.client.mod import secaggplus_mod
    from flwr.clientapp import ClientApp
    from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
    from flwr.server import LegacyContext, ServerConfig
    from flwr.server.strategy import FedAvg
    from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow

    means = []

    class Watching(FedAvg):
        def aggregate_fit(self, server_round, results, failures):
            aggregated, metrics = super().aggregate_fit(server_round, results, failures)
            assert aggregated is not None
            means.append(parameters_to_ndarrays(aggregated)[0])
            return aggregated, metrics

    class Client(NumPyClient):
        def __init__(self, client):
            self.client = client

        def fit(self, parameters, config):
            return [vector(self.client).numpy()], examples(self.client), {}

    app = ClientApp(
        client_fn=lambda context: Client(int(context.node_config["partition-id"])).to_client(), mods=[secaggplus_mod]
    )
    strategy = Watching(
        fraction_evaluate=0.0,
        min_fit_clients=clients,
        min_available_clients=clients,
        initial_parameters=ndarrays_to_parameters([np.zeros(LENGTH)]),
    )
    context = LegacyContext(
        context=Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={}),
        config=ServerConfig(num_rounds=1),
        strategy=strategy,
    )
    workflow = SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=2 / 3, max_weight=LARGEST_WEIGHT)
    DefaultWorkflow(fit_workflow=workflow)(LocalGrid(app, clients, {}), context)
    return torch.from_numpy(means[0])


@pytest.fixture
def quiet_and_seeded():
    """Flower logs every stage, and its SecAgg+ draws neighbours and roundings from the global generators."""
    logger = logging.getLogger("flwr")
    level, python_state, numpy_state = logger.level, random.getstate(), np.random.get_state()
    logger.setLevel(logging.ERROR)
    random.seed(1)
    np.random.seed(1)
    yield
    logger.setLevel(level)
    random.setstate(python_state)
    np.random.set_state(numpy_state)


@pytest.mark.slow
@pytest.mark.usefixtures("quiet_and_seeded")
@pytest.mark.parametrize("clients", [5, 20])
def test_flowers_secagg_plus_gives_the_same_mean(federation, clients):
    config = SecureAggregation(levels=2**20, modulus_bits=32)
    vectors = {
        c: weighted_levels(vector(c), examples(c), config, seeding.generator(8, "rounding", c)) for c in range(clients)
    }
    ours = weighted_mean(federation.masked_round(vectors, config).run().total, config)
    total = sum(examples(c) for c in range(clients))
    true_mean = sum(vector(c) * examples(c) for c in range(clients)) / total
    theirs = flowers_mean(clients)

    # Flower rounds weight / largest weight and each weighted vector to one of 2**22 steps: in units of the mean, every
    # client may be off by a step for its vector and by half a level for its weight (values are at most 1).
    levels, shares = 2**22, total / LARGEST_WEIGHT
    flowers_error = clients * (2 * 8.0 / levels + 2 * 0.5 / levels) / shares
    assert ours.weight == total
    assert (ours.mean - true_mean).abs().max() <= config.step
    assert (theirs - true_mean).abs().max() <= flowers_error
    assert (theirs - ours.mean).abs().max() <= config.step + flowers_error
    assert flowers_error < 1e-3
