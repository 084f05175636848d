"""Address at which other machines on the network reach this machine."""

from __future__ import annotations

import socket
from ipaddress import AddressValueError, IPv4Address

from fedsim.core.errors import FedsimError

ADDRESS = "127.0.0.1"
EVERYWHERE = "0.0.0.0"
_ELSEWHERE = ("192.0.2.1", 9)  # reserved for documentation: used to look up the route; no packet is sent


def address_of(host: str) -> str:
    """Return the address to open for a server that listens at a host.

    Raises:
        FedsimError: the host is not an address like 192.168.1.5.
    """
    try:
        address = IPv4Address(host)
    except AddressValueError:
        raise FedsimError(
            f"--host {host}: expected an address of this machine, such as 192.168.1.5, or {EVERYWHERE} for all of them."
        ) from None
    return str(address) if host != EVERYWHERE else own_address()


def own_address() -> str:
    """Return the address of this machine in its network, or that of the machine alone where it has no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)
        except OSError:
            return ADDRESS
        return probe.getsockname()[0]
