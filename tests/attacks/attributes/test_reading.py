"""Readers learn from public changes by any probe, and say which there is."""

import pytest
import torch

from attacks.attributes._reading import ReadingConfig
from attacks.attributes.change_norms import ChangeNorms
from fedsim.components.probe.ridge import Ridge, RidgeConfig
from fedsim.core.errors import FedsimError


def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    known = torch.randn(40, 5, generator=source) * 100 + labels[:, None] * 500
    return known, labels, torch.randn(7, 5, generator=source) * 100


def test_it_is_the_probe_on_scaled_figures() -> None:
    known, labels, asked = drawn()
    found = ChangeNorms(ReadingConfig())(known, labels, asked, torch.Generator())
    probe = Ridge(RidgeConfig())
    learned = probe.fit(known, labels, torch.Generator())  # the ridge scales by itself, so nothing changes
    assert torch.allclose(found, probe.predict(learned, asked), atol=1e-5)


def test_another_probe_is_asked_by_its_name() -> None:
    known, labels, asked = drawn()
    attack = ChangeNorms(ReadingConfig(probe="head-neurons"))
    found = attack(known, labels, torch.cat([asked, asked + 500]), torch.Generator())
    assert found.argmax(1).tolist() == [0] * 7 + [1] * 7


def test_a_figure_that_never_changes_is_no_reason_to_fail() -> None:
    known, labels, asked = drawn()
    known[:, 0], asked[:, 0] = 3.0, 3.0
    assert ChangeNorms(ReadingConfig())(known, labels, asked, torch.Generator()).isfinite().all()


def test_an_update_of_which_nothing_is_seen_is_refused() -> None:
    with pytest.raises(FedsimError, match=r"Widen threat\.visible_parameters"):
        ChangeNorms(ReadingConfig()).describe({}, torch.Generator())
