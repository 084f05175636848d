import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch, InputSpec, Reconstruction
from fedsim.metrics.image import PSNR_CAP, match, mse, nearest, psnr, score_items, ssim, to_pixels

GREY = InputSpec((1, 12, 12), 10, (0.13,), (0.31,))
COLOUR = InputSpec((3, 16, 16), 10, (0.5, 0.4, 0.3), (0.25, 0.2, 0.3))


def pixels(spec: InputSpec, count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, *spec.shape, generator=torch.Generator().manual_seed(seed))


def normalised(images: torch.Tensor, spec: InputSpec) -> torch.Tensor:
    return (images - torch.tensor(spec.mean).view(1, -1, 1, 1)) / torch.tensor(spec.std).view(1, -1, 1, 1)


def guess(inputs: torch.Tensor, labels: torch.Tensor) -> Reconstruction:
    return Reconstruction(inputs, labels, None, 0.0, 1, 1, (), "done")


@pytest.mark.parametrize("count", [1, 40])
def test_the_nearest_picture_is_that_of_every_comparison(count: int) -> None:
    ours, others = pixels(COLOUR, 30, 0), pixels(COLOUR, count, 1)
    compared = torch.stack([torch.stack([mse(one[None], other[None])[0] for other in others]) for one in ours])
    assert torch.equal(nearest(ours, others), compared.argmin(1))


@pytest.mark.parametrize("shape", [(4, 1, 28, 28), (3, 3, 32, 32), (2, 1, 11, 11)])
def test_agrees_with_torchmetrics(shape):
    from torchmetrics.functional.image import peak_signal_noise_ratio  # it loads transformers, for seconds

    source = torch.Generator().manual_seed(0)
    originals = torch.rand(shape, generator=source)
    guesses = (originals + 0.2 * torch.randn(shape, generator=source)).clamp(0, 1)
    reference = [
        peak_signal_noise_ratio(g[None], o[None], data_range=1.0) for g, o in zip(guesses, originals, strict=True)
    ]
    assert psnr(guesses, originals).tolist() == pytest.approx([float(r) for r in reference], rel=1e-5)


@pytest.mark.parametrize("shape", [(4, 1, 28, 28), (3, 3, 32, 32), (2, 3, 64, 48), (2, 1, 11, 11)])
def test_ssim_agrees_with_torchmetrics(shape):
    from torchmetrics.functional.image import structural_similarity_index_measure

    source = torch.Generator().manual_seed(1)
    originals = torch.nn.functional.avg_pool2d(torch.rand(shape, generator=source), 3, 1, 1)
    guesses = (originals + 0.1 * torch.randn(shape, generator=source)).clamp(0, 1)
    _, map_with_borders = structural_similarity_index_measure(
        guesses, originals, data_range=1.0, sigma=1.5, reduction="none", return_full_image=True
    )
    # torchmetrics also averages over windows that lie partly in a reflected border of 5 pixels.
    reference = map_with_borders[..., 5:-5, 5:-5].flatten(1).mean(1)
    assert ssim(guesses, originals).tolist() == pytest.approx(reference.tolist(), abs=1e-3)


def test_closed_forms():
    black, grey = torch.zeros(1, 1, 12, 12), torch.full((1, 1, 12, 12), 0.1)
    assert float(mse(grey, black)) == pytest.approx(0.01)
    assert float(psnr(grey, black)) == pytest.approx(20.0)
    assert float(psnr(black, black)) == PSNR_CAP
    assert float(psnr(black + 1, black)) == 0.0
    assert float(ssim(black, black)) == pytest.approx(1.0)
    assert float(ssim(grey, black)) == pytest.approx(1e-4 / (0.01 + 1e-4), rel=1e-4)


@pytest.mark.parametrize("side", [3, 4, 7, 10])
def test_small_images_get_a_smaller_window(side):
    image = pixels(InputSpec((1, side, side), 2, (0.0,), (1.0,)), 2, 0)
    assert ssim(image, image).tolist() == pytest.approx([1.0, 1.0])
    assert (ssim(image, 1 - image) < 0.5).all()


def test_ssim_refuses_what_is_no_image():
    with pytest.raises(FedsimError, match="at least 3 x 3"):
        ssim(torch.rand(2, 5), torch.rand(2, 5))


def test_to_pixels_inverts_the_normalisation_and_clips():
    images = pixels(COLOUR, 2, 0)
    torch.testing.assert_close(to_pixels(normalised(images, COLOUR), COLOUR), images)
    wild = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e9]).view(1, 1, 2, 2)
    assert to_pixels(wild, GREY).flatten().tolist() == [0.0, 1.0, 0.0, 1.0]


def test_psnr_is_of_pixels_not_of_normalised_inputs():
    originals = torch.full((1, *GREY.shape), 0.5)
    inputs = normalised(originals, GREY)
    shifted = normalised(originals + 0.1, GREY)
    item = score_items(guess(shifted, torch.tensor([3])), Batch(inputs, torch.tensor([3])), GREY).items[0]
    assert item.values["psnr"] == pytest.approx(20.0, abs=1e-3)
    assert item.values["mse_normalised"] == pytest.approx(item.values["mse"] / GREY.std[0] ** 2, rel=1e-4)
    trap = -10 * math.log10(item.values["mse_normalised"])
    assert item.values["psnr"] - trap == pytest.approx(-20 * math.log10(GREY.std[0]), abs=1e-3)


def test_errors_outside_the_pixel_range_are_clipped_away_in_pixels_only():
    batch = Batch(normalised(torch.ones(1, *GREY.shape), GREY), torch.tensor([0]))
    item = score_items(guess(batch.inputs + 2, torch.tensor([0])), batch, GREY).items[0]
    assert item.values["psnr"] == PSNR_CAP
    assert item.values["mse_normalised"] == pytest.approx(4.0)


def test_match_undoes_any_order():
    originals = pixels(COLOUR, 5, 0)
    shuffle = torch.tensor([3, 0, 4, 1, 2])
    order = match(originals[shuffle], originals)
    assert torch.equal(originals[shuffle][order], originals)


def test_match_minimises_the_total_not_each_choice():
    originals = torch.tensor([0.0, 0.4]).view(2, 1, 1, 1)
    guesses = torch.tensor([0.1, 1.0]).view(2, 1, 1, 1)
    assert match(guesses, originals).tolist() == [0, 1]


def test_match_takes_a_guess_that_is_not_finite_last():
    black = torch.zeros(1, 1, 1, 1)
    guesses = torch.tensor([torch.nan, 0.9, torch.inf]).view(3, 1, 1, 1)
    assert match(guesses, black).tolist() == [1]


def test_match_needs_a_guess_for_each_original():
    with pytest.raises(FedsimError, match="1 examples for a batch of 2"):
        match(torch.zeros(1, 1, 3, 3), torch.zeros(2, 1, 3, 3))


@settings(deadline=None, max_examples=25)
@given(st.permutations(range(5)), st.integers(0, 1000))
def test_scores_do_not_depend_on_the_order_of_the_guesses(permutation, seed):
    originals = pixels(GREY, 5, seed)
    labels = torch.tensor([1, 1, 1, 2, 3])
    noise = 0.05 * torch.randn(originals.shape, generator=torch.Generator().manual_seed(seed))
    batch, guesses = Batch(normalised(originals, GREY), labels), normalised(originals + noise, GREY)
    shuffle = torch.tensor(permutation)
    straight = score_items(guess(guesses, labels), batch, GREY)
    shuffled = score_items(guess(guesses[shuffle], labels[shuffle]), batch, GREY)
    assert straight.items == shuffled.items
    assert torch.equal(shuffle[shuffled.order], straight.order)


def test_guesses_beyond_the_batch_are_left_over():
    originals = pixels(GREY, 2, 0)
    labels = torch.tensor([0, 1])
    guesses = torch.cat([pixels(GREY, 1, 9), originals.flip(0)])
    scored = score_items(
        guess(normalised(guesses, GREY), torch.tensor([5, 1, 0])), Batch(normalised(originals, GREY), labels), GREY
    )
    assert scored.order.tolist() == [2, 1]
    assert [item.guessed_label for item in scored.items] == [0, 1]
    assert all(item.values["psnr"] > 100 for item in scored.items)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_guess_that_is_not_finite_is_the_worst(value):
    originals = pixels(GREY, 2, 0)
    batch = Batch(normalised(originals, GREY), torch.tensor([0, 1]))
    guesses = batch.inputs.flip(0).clone()
    guesses[1, 0, 0, 0] = value
    broken, intact = score_items(guess(guesses, torch.tensor([1, 0])), batch, GREY).items
    assert (broken.values["mse"], broken.values["psnr"], broken.values["ssim"]) == (1.0, 0.0, -1.0)
    assert broken.values["mse_normalised"] == pytest.approx(GREY.std[0] ** -2)
    assert intact.values["psnr"] > 100


def test_a_huge_guess_keeps_every_score_finite():
    batch = Batch(normalised(pixels(GREY, 1, 0), GREY), torch.tensor([0]))
    item = score_items(guess(torch.full_like(batch.inputs, 3e38), torch.tensor([0])), batch, GREY).items[0]
    assert all(
        math.isfinite(v)
        for v in (item.values["mse"], item.values["mse_normalised"], item.values["psnr"], item.values["ssim"])
    )


def test_another_shape_is_named():
    batch = Batch(torch.zeros(1, 1, 12, 12), torch.tensor([0]))
    with pytest.raises(FedsimError, match=r"\(1, 8, 8\), expected \(1, 12, 12\)"):
        score_items(guess(torch.zeros(1, 1, 8, 8), torch.tensor([0])), batch, GREY)


def test_ssim_needs_three_pixels_a_side() -> None:
    least = torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    assert float(ssim(least, least)) == pytest.approx(1.0)
    for shape in ((1, 1, 2, 3), (1, 1, 3, 2), (1, 3, 3)):
        with pytest.raises(FedsimError, match="at least 3 x 3 pixels"):
            ssim(torch.zeros(shape), torch.zeros(shape))


def test_slices_of_a_volume_stand_one_below_the_other() -> None:
    volumes = torch.rand(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    pixels = to_pixels(2 * volumes - 1, InputSpec((3, 4, 5, 6), 2, (0.5,) * 3, (0.5,) * 3))
    assert pixels.shape == (2, 3, 20, 6)
    torch.testing.assert_close(pixels[:, :, 5:10], volumes[:, :, 1])
