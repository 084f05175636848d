"""Whose example it is: told by the sites' own models where they know their examples by heart."""

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.release import sites
from tests.release import hospital

FIRST, SECOND, SAME = (f"{hospital.__name__}:{name}_site" for name in ("first", "second", "same"))
NO_LOADER = f"{hospital.__name__}:no_loader"


def test_the_site_of_an_example_is_told_beside_a_control_at_chance() -> None:
    attack, control = sites.find(sites.read({"a": FIRST, "b": SECOND}), 0)
    assert (attack.n, attack.chance_level, attack.p_value, attack.state) == (120, 0.5, 0.001, "recovered")
    assert (control.value.low or 0) < 0.5 < (control.value.high or 0)


def test_without_sites_nothing_is_said() -> None:
    assert list(sites.find(sites.read({}), 0)) == []


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        ({"a": FIRST}, "--sites names 'a' alone, expected at least 2"),
        ({"a": FIRST, "b": FIRST}, "60 examples are among the examples of 'a' and among the examples of 'b'"),
        ({"a": FIRST, "b": NO_LOADER}, "'tests.release.hospital:no_loader' returned no loader, expected"),
        ({"a": FIRST, "b": SAME}, "'a' and 'b' return the same weights, expected each site's own model"),
    ],
)
def test_sites_that_cannot_be_told_apart_are_refused(targets: dict[str, str], sentence: str) -> None:
    with pytest.raises(FedsimError, match=sentence):
        sites.read(targets)


def test_models_that_share_a_tensor_are_two_models() -> None:
    first, second = hospital.network(), hospital.network()
    assert sites._are_alike(first, second)
    with torch.no_grad():
        second[3].bias[1] += 1
    assert not sites._are_alike(first, second)
