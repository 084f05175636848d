"""Clients and server that know each other's keys."""

from fedsim.privacy.secure_aggregation.config import SecureAggregation
from fedsim.privacy.secure_aggregation.protocol import MaskingClient, UnmaskingServer


def introduced(federation, clients=4, round_=None, **settings_):
    """Clients and server after stage 0."""
    config = SecureAggregation(**settings_)
    round_ = federation.ROUND if round_ is None else round_
    server = UnmaskingServer(federation.SEED, round_, range(clients), config)
    sides = {c: MaskingClient(federation.SEED, round_, c, clients, config) for c in range(clients)}
    return sides, server, server.introduce({c: side.advertise() for c, side in sides.items()})
