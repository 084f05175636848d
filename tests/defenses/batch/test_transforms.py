"""Transforms of images against plain formulas."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.batch._transforms import LIBRARY, Transform, policy_of
from fedsim.core.errors import FedsimError
from tests.defenses.batch.pictures import images


def test_there_are_fifty_different_transforms_that_keep_the_shape_and_change_something() -> None:
    assert len(set(LIBRARY)) == 50
    for transform in LIBRARY:
        changed = transform(images())
        assert changed.shape == images().shape
        assert torch.isfinite(changed).all()
        assert not torch.allclose(changed, images(), atol=1e-3), str(transform)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(LIBRARY), st.integers(1, 3), st.integers(3, 7), st.integers(3, 7))
def test_every_image_is_transformed_by_itself(transform: Transform, channels: int, height: int, width: int) -> None:
    batch = images(4, channels, height, width)
    together = transform(batch)
    alone = torch.cat([transform(image[None]) for image in batch])
    assert torch.allclose(together, alone, atol=1e-5)


def test_transforms_do_what_their_names_say() -> None:
    x = images(1, 1, 4, 4)
    square = torch.zeros(1, 1, 4, 4)
    square[0, 0, 0, 1] = 1.0
    assert torch.allclose(Transform("rotate", 90)(square), torch.rot90(square, 1, (2, 3)), atol=1e-5)
    shifted = torch.zeros_like(x)
    shifted[..., :3] = x[..., 1:]
    assert torch.allclose(Transform("translate-x", 0.25)(x), shifted, atol=1e-5)
    lifted = torch.zeros_like(x)
    lifted[:, :, :3] = x[:, :, 1:]
    assert torch.allclose(Transform("translate-y", 0.25)(x), lifted, atol=1e-5)
    assert torch.allclose(Transform("invert", 1)(x), x.min() + x.max() - x, atol=1e-5)
    assert torch.allclose(Transform("contrast", 0.5)(x), 0.5 * x + 0.5 * x.mean(), atol=1e-5)
    assert torch.allclose(Transform("brightness", 0.5)(x), 0.5 * x + 0.5 * x.min(), atol=1e-5)
    assert len(Transform("posterize", 1)(x).unique()) == 2
    assert torch.allclose(Transform("sharpness", 1.0)(x), x, atol=1e-5)


@pytest.mark.paper_step("ats", "fifty transforms, policies of up to three")
def test_a_policy_applies_its_steps_in_order() -> None:
    policy = policy_of((5, 40, 23))
    assert torch.equal(policy(images()), LIBRARY[23](LIBRARY[40](LIBRARY[5](images()))))
    assert str(policy) == f"{LIBRARY[5]} then {LIBRARY[40]} then {LIBRARY[23]}"
    with pytest.raises(FedsimError, match="need inputs"):
        policy(torch.zeros(2, 5))
