"""A guess of fewer examples than the batch holds: those without a guess are missing, the others keep their scores."""

from dataclasses import replace

import pytest
import torch

from fedsim.core.types import NO_LABEL, Batch, InputSpec, Reconstruction
from fedsim.metrics.image import score_items
from fedsim.metrics.labels import label_accuracy
from fedsim.metrics.missing import complete, fill

GREY = InputSpec((1, 12, 12), 10, (0.13,), (0.31,))
BATCH = Batch(torch.randn(3, 1, 12, 12, generator=torch.Generator().manual_seed(0)), torch.tensor([4, 5, 6]))


def guess(places: list[int], **fields: object) -> Reconstruction:
    made = Reconstruction(BATCH.inputs[places], BATCH.labels[places], None, 0.0, 1, 1, (), "done")
    return replace(made, **fields)


@pytest.mark.parametrize("places", [[], [1], [2, 0]])
def test_what_was_guessed_is_matched_and_the_rest_is_missing(places):
    items = score_items(complete(guess(places), 3), BATCH, GREY).items
    assert [item.index for item in items if not item.is_missing] == sorted(places)
    for item in items:
        if item.is_missing:
            assert (item.guessed_label, item.values["mse"], item.values["psnr"], item.values["ssim"]) == (
                None,
                1.0,
                0.0,
                -1.0,
            )
        else:
            assert (item.guessed_label, item.values["psnr"]) == (item.label, 160.0)
    accuracy = label_accuracy([item.guessed_label for item in items], BATCH.labels.tolist())
    assert accuracy == pytest.approx(len(places) / 3)


@pytest.mark.parametrize("places", [[0, 1, 2], [2, 1, 0, 0]])
def test_a_guess_of_at_least_the_size_stays_the_same_object(places):
    found = guess(places)
    assert complete(found, 3) is found


def test_more_labels_than_guesses_are_granted_ones_and_give_no_guess_a_label():
    items = score_items(complete(guess([1], labels=BATCH.labels[[1, 0, 2]]), 3), BATCH, GREY).items
    assert [item.guessed_label for item in items] == [None, 5, None]


def test_masks_are_filled_up_by_example_also_where_one_owns_several_rows():
    masks = (torch.ones(2, 5), torch.ones(4, 7), torch.ones(3, 2))
    filled = complete(guess([0, 1], masks=masks), 3).masks
    assert filled is not None
    assert [mask.shape[0] for mask in filled] == [3, 6, 3]
    assert [int(mask.isnan().sum()) for mask in filled] == [5, 14, 0]


def test_a_missing_example_has_no_guessed_label_in_the_record():
    missing = score_items(complete(guess([]), 3), BATCH, GREY).items[0]
    written = missing.model_dump()
    assert "guessed_label" not in written
    assert type(missing).model_validate(written) == missing


def test_the_mark_of_no_label_is_no_label():
    assert NO_LABEL < 0


def test_rows_enough_stay_as_they_are():
    assert torch.equal(fill(torch.ones(3, 2), 2, 0.0), torch.ones(3, 2))


def test_masks_of_no_guess_stay_as_they_are():
    masks = complete(guess([], masks=(torch.ones(4, 2),)), 3).masks
    assert masks is not None
    assert torch.equal(masks[0], torch.ones(4, 2))
