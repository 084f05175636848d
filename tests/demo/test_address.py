"""An address to listen at is one of this machine, and the one to open is never 0.0.0.0."""

import socket
from ipaddress import IPv4Address
from typing import Any

import pytest

from fedsim.core.errors import FedsimError
from fedsim.demo.address import address_of, own_address


def test_an_address_is_itself_and_all_of_them_are_that_of_the_network() -> None:
    assert address_of("127.0.0.1") == "127.0.0.1"
    assert address_of("0.0.0.0") == own_address() != "0.0.0.0"
    IPv4Address(own_address())


@pytest.mark.parametrize("host", ["evil.example", "", "1.2.3", "::1", "1.2.3.4:80"])
def test_what_is_no_address_is_named(host: str) -> None:
    with pytest.raises(FedsimError, match=r"expected an address of this machine, such as 192\.168\.1\.5"):
        address_of(host)


def test_a_machine_without_network_is_reached_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    class Alone(socket.socket):
        def connect(self, _address: Any) -> None:
            raise OSError

    monkeypatch.setattr(socket, "socket", Alone)
    assert own_address() == "127.0.0.1"
