"""Whether wrong labels give a record away, and whether forgetting large losses hides it."""

import pytest
import torch

from benchmarks.noisy_membership import NOISE, TRAININGS, _separated, _with_noise, leak_of, world_of


def test_others_carry_wrong_labels_of_the_same_law() -> None:
    world = world_of(TRAININGS["cross-entropy"], 0)
    clean = world_of(TRAININGS["cross-entropy"], 0, noise=0.0).data.dataset
    others = _with_noise(clean.test, clean.class_names, 0)
    for noisy, own in ((world.data.dataset.train.labels, clean.train.labels), (others.labels, clean.test.labels)):
        assert float((noisy != own).double().mean()) == pytest.approx(NOISE, abs=0.01)
    assert (len(world.data.dataset.train), len(others)) == (1000, 4000)


def test_a_lower_loss_speaks_for_a_member() -> None:
    losses = torch.rand(400, generator=torch.Generator().manual_seed(0))
    area, advantage = _separated(losses - 2.0, losses, 0)
    assert area == 1.0
    assert advantage > 0.98  # of a threshold that the other half of the candidates chose
    area, advantage = _separated(losses[:200], losses[200:], 0)
    assert area == pytest.approx(0.5, abs=0.1)
    assert advantage < 0.2


@pytest.mark.slow
def test_cross_entropy_remembers_wrong_labels_and_co_teaching_forgets_most_of_them() -> None:
    control, forgetful = leak_of("cross-entropy", 0), leak_of("Nested Dropout + Co-teaching", 0)
    assert control.wrong > 0.95
    assert forgetful.wrong < 0.7
