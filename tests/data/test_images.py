"""Picking, splitting and fitting."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fedsim.core import seeding
from fedsim.data._facts import MNIST
from fedsim.data._images import ImageConfig, fit_to_square, images_from_arrays, normalise, split


def test_padding_keeps_the_pixels_in_a_black_frame() -> None:
    pixels = torch.full((2, 1, 28, 27), 200, dtype=torch.uint8)
    padded = fit_to_square(pixels, 32)
    assert padded.shape == (2, 1, 32, 32)
    assert torch.equal(padded[:, :, 2:30, 2:29], pixels)
    assert padded.sum(dtype=torch.int64) == pixels.sum(dtype=torch.int64)


@pytest.mark.parametrize(("height", "width", "size"), [(64, 64, 32), (60, 90, 20), (90, 60, 40)])
def test_shrinking_agrees_with_pillow(height: int, width: int, size: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    scale = size / min(height, width)
    small = Image.fromarray(pixels).resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (small.width - size) // 2, (small.height - size) // 2
    expected = np.asarray(small.crop((left, top, left + size, top + size))).astype(int)
    found = fit_to_square(torch.from_numpy(pixels)[None, None], size)[0, 0].numpy().astype(int)
    assert np.abs(found - expected).max() <= 1


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_any_shape_is_fitted_once(height: int, width: int, size: int) -> None:
    pixels = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    once = fit_to_square(pixels, size)
    assert once.shape == (1, 3, size, size)
    assert torch.equal(fit_to_square(once, size), once)
    assert fit_to_square(pixels, None) is pixels


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0.01, 0.99), st.integers(0, 5))
def test_a_split_takes_its_share_of_every_class(labels: list[int], fraction: float, seed: int) -> None:
    count = len(labels)
    images = images_from_arrays(np.arange(count, dtype=np.uint8).reshape(-1, 1, 1), np.array(labels))
    train, test = split(images, fraction, seed)
    numbers = [part.read(torch.arange(len(part.labels))).flatten().tolist() for part in (train, test)]
    assert sorted(numbers[0] + numbers[1]) == list(range(count))
    assert [labels[number] for number in numbers[1]] == test.labels.tolist()
    for label in set(labels):
        assert test.labels.tolist().count(label) == int(labels.count(label) * fraction + 1e-9)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 70))
def test_a_limit_takes_every_class_as_evenly_as_possible(labels: list[int], limit: int) -> None:
    images = images_from_arrays(np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1), np.array(labels))
    kept = normalise(ImageConfig(train=limit), images, images, MNIST).train.labels.tolist()
    assert len(kept) == min(limit, len(labels))
    unfinished = [kept.count(label) for label in set(labels) if kept.count(label) < labels.count(label)]
    assert max(kept.count(label) for label in set(labels)) <= min(unfinished, default=len(labels)) + 1


def test_only_the_kept_images_are_read() -> None:
    images = images_from_arrays(np.zeros((30, 4, 4), np.uint8), np.arange(30) % 10)
    seen: list[int] = []
    counted = type(images)(images.labels, lambda chosen: (seen.append(len(chosen)), images.read(chosen))[1])
    normalise(ImageConfig(train=3, test=2), counted, counted, MNIST)
    assert seen == [3, 2]


def test_order_has_its_own_seed() -> None:
    assert seeding.derive(0, "order of examples") != seeding.derive(0, "test split")
