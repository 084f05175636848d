"""An adversary picks the true picture out of public ones: against brute force, chance and what a person still reads."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fedsim.core import registry
from fedsim.core.types import Batch, Dataset, InputSpec
from fedsim.metrics.identification import PUBLIC, Gallery, gallery, identify_guesses
from fedsim.metrics.image import exact_pixels, ssim
from fedsim.metrics.statistics import wilson


def pictures(count: int, seed: int, shape: tuple[int, int, int] = (1, 16, 16)) -> torch.Tensor:
    """Return smooth pictures in [0, 1]."""
    noise = torch.rand(count, shape[0], shape[1] // 4, shape[2] // 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, shape[1:], mode="bicubic").clamp(0, 1)


def noisy(originals: torch.Tensor, level: float) -> torch.Tensor:
    source = torch.Generator().manual_seed(3)
    return (originals + level * torch.randn(originals.shape, generator=source)).clamp(0, 1)


@pytest.fixture(scope="module")
def public() -> Gallery:
    return Gallery(pictures(200, 1))


def test_likeness_is_ssim_to_every_public_picture(public: Gallery) -> None:
    guess = noisy(pictures(1, 0), 0.2)
    everyone = public._pictures
    expected = ssim(guess.expand_as(everyone).contiguous(), everyone)
    # The filters work in single precision, on squares of up to 1.
    torch.testing.assert_close(public._likeness.to_public(guess).double(), expected, rtol=0, atol=1e-4)
    assert float(public._likeness.similarity(guess, pictures(1, 0))) == pytest.approx(
        float(ssim(guess, pictures(1, 0))), abs=1e-4
    )


def test_a_thousand_pictures_stand_beside_the_true_one(public: Gallery) -> None:
    assert len(public._pictures) == PUBLIC
    assert 0 <= float(public._pictures.min()) <= float(public._pictures.max()) <= 1


def test_what_a_person_reads_through_noise_is_identified(public: Gallery) -> None:
    originals = pictures(10, 0)
    assert identify_guesses(originals, originals, public).tolist() == [1.0] * 10
    guesses = noisy(originals, 0.2)
    assert float(ssim(guesses, originals).max()) < 0.95
    assert identify_guesses(guesses, originals, public).tolist() == [1.0] * 10


def test_a_guess_of_another_picture_or_of_nothing_is_not(public: Gallery) -> None:
    originals = pictures(100, 0)
    blind = torch.rand(originals.shape, generator=torch.Generator().manual_seed(5))
    for guesses in (originals.roll(1, 0), blind, torch.full_like(originals, 0.5)):
        # By chance 0.2 of 100; three or more of them happen once in a thousand times.
        assert float(identify_guesses(guesses, originals, public).sum()) <= 2


def test_a_public_copy_of_the_original_and_crops_of_it_do_not_hide_it() -> None:
    originals = pictures(20, 0)
    assert identify_guesses(originals, originals, Gallery(originals)).tolist() == [1.0] * 20


def test_beside_nothing_but_copies_of_it_nothing_is_identified() -> None:
    original = pictures(1, 0)
    assert identify_guesses(original, original, Gallery(original.expand(3, -1, -1, -1))).tolist() == [0.0]


@pytest.mark.slow
def test_large_pictures_are_compared_at_a_size_that_a_person_recognises() -> None:
    originals = pictures(1, 0, (3, 160, 120))
    few = Gallery(pictures(4, 1, (3, 160, 120)))
    assert few._pictures.shape == (PUBLIC, 3, 64, 48)
    assert identify_guesses(noisy(originals, 0.3), originals, few).tolist() == [1.0]


@pytest.mark.parametrize(
    "kind", ["grey", "mean", "another", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("noise", "smooth"))]
)
def test_blind_guesses_are_picked_out_as_rarely_as_declared(kind: str) -> None:
    every, source = pictures(200, 11), torch.Generator().manual_seed(2)
    beside, own = Gallery(every[:100]), every[100:]
    guesses = {
        "grey": torch.full_like(own, 0.5),
        "noise": torch.rand(own.shape, generator=source),
        "smooth": F.interpolate(torch.rand(100, 1, 3, 3, generator=source), (16, 16), mode="bicubic").clamp(0, 1),
        "mean": every[:100].mean(0).expand_as(own),
        "another": own.roll(1, 0),
    }[kind]
    hits = sum(beside.picks(guess, original) for guess, original in zip(guesses, own, strict=True))
    low = wilson(hits, len(own)).low
    assert low is not None
    assert low <= registry.every_metric()["identified"].chance


def test_public_pictures_are_the_test_set_and_are_measured_once() -> None:
    spec = InputSpec((1, 16, 16), 10, (0.5,), (0.25,))
    train, test = (Batch((pictures(100, seed) - 0.5) / 0.25, torch.zeros(100, dtype=torch.long)) for seed in (0, 1))
    data = Dataset(train, test, spec, tuple("0123456789"), task="classification")
    found = gallery(data)
    assert found is not None
    assert gallery(data) is found
    torch.testing.assert_close(found._distinct, pictures(100, 1))
    assert gallery(replace(data, test=test.select(torch.tensor([0])))) is None
    other = gallery(replace(data, test=train))
    assert other is not None
    torch.testing.assert_close(other._distinct, pictures(100, 0))
    assert gallery(data) is found


def test_exact_means_that_a_file_of_256_steps_is_the_same() -> None:
    original = torch.randint(256, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 255
    shift = torch.zeros_like(original)
    shift[0, 0, 3, 3], shift[1, 0, 3, 3] = 0.49 / 255, 0.51 / 255
    assert exact_pixels(original + shift, original).tolist() == [1.0, 0.0]
    assert torch.equal((255 * (original + shift)[0]).round(), (255 * original[0]).round())
