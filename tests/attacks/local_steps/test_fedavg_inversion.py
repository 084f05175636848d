"""All local steps simulated: passes with dummies of their own, and masks of every step."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.local_steps.fedavg_inversion import average, disagreement
from tests.attacks.local_steps.clients import found, small, wide
from tests.federating import watched


@pytest.mark.paper_step("fedavg-inversion", "matching and averaging of the epochs' inputs")
@given(st.permutations(range(4)), st.permutations(range(4)))
@settings(deadline=None)  # the first call imports SciPy
def test_passes_in_any_order_are_brought_together(one: list[int], other: list[int]) -> None:
    images = torch.randn((4, 1, 3, 3), generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 0, 1, 2])
    visits = torch.cat([images, images[one], images[other], images[:2]])
    named = torch.cat([labels, labels[one], labels[other], labels[:2]])
    assert torch.allclose(average(visits, named, 4), images, atol=1e-6)
    assert disagreement(visits[None], 4).item() < 1e-12
    assert disagreement(torch.cat([images, images + 1.0])[None], 4).item() == pytest.approx(1.0)


@pytest.mark.slow
def test_unknown_masks_of_every_step_are_found_and_the_mean_is_worse() -> None:
    seen = watched(model=wide(0.25), **small(batch_size=4, local_epochs=3))
    guess, psnr = found("fedavg-inversion", seen, max_iterations=400)
    _, ignorant = found("fedavg-inversion", seen, max_iterations=400, masks="expectation")
    assert guess.masks is None
    assert sorted(psnr)[1] > sorted(ignorant)[1] + 5.0


@pytest.mark.paper_step("fedavg-inversion", "prior on epochs that does not depend on the order")
@pytest.mark.slow
def test_separate_dummies_of_each_pass_end_as_one_set() -> None:
    seen = watched(
        model={"name": "mlp", "width": 96, "depth": 2, "dropout": 0.0}, **small(batch_size=2, local_epochs=3)
    )
    guess, psnr = found("fedavg-inversion", seen, max_iterations=250, dummies="separate", restarts=2)
    assert guess.inputs.shape == (4, 1, 8, 8)
    assert guess.diagnostics["starts"] == 2
    assert sorted(psnr)[1] > 20.0
