"""Scores against what the model saw, beside a count over pixels one by one."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from fedsim.core.examples import unique_examples
from fedsim.core.types import Batch, Observation, Reconstruction, Truth
from fedsim.metrics.boxes import CutMixRecord, gather, inside
from fedsim.metrics.composites import with_composites
from fedsim.metrics.image import score_items, to_pixels
from fedsim.metrics.missing import complete
from fedsim.record import ItemScore
from fedsim.scenario.world import World

Watched = Callable[..., tuple[Observation, Truth, World]]
CUTMIX = {"name": "cutmix", "probability": 1.0, "per_sample": True}


def trained(watched: Watched, client: int = 0, **tables: Any) -> tuple[Truth, World]:
    own = {"federation": {"batch_size": 4}, "components": [CUTMIX], **tables}
    _, truth, world = watched(client=client, **own)
    return truth, world


def guess(inputs: torch.Tensor, shown: Batch | None = None) -> Reconstruction:
    labels = torch.zeros(len(inputs), dtype=torch.long)
    return Reconstruction(inputs, labels, None, 0.0, 1, 1, (), "done", trained_batch=shown)


def scores(found: Reconstruction, truth: Truth, world: World) -> tuple[ItemScore, ...]:
    spec = world.data.dataset.spec
    examples = unique_examples(truth.original_batches)
    return with_composites(score_items(found, examples, spec), found, truth, examples, spec)


@pytest.mark.parametrize("client", range(4))
def test_the_composites_themselves_score_best_and_show_what_the_boxes_say(watched: Watched, client: int) -> None:
    truth, world = trained(watched, client)
    order = torch.tensor([2, 0, 3, 1])
    items = scores(guess(truth.batches[0].inputs[order]), truth, world)
    pasted = CutMixRecord.written_in(truth.draws[0])
    assert pasted is not None
    assert pasted.boxes is not None
    assert pasted.partners is not None
    visible = torch.zeros(4, 8, 8, dtype=torch.bool)
    for place in range(4):
        top, bottom, left, right = pasted.boxes[place].tolist()
        for row in range(8):
            for column in range(8):
                is_pasted = top <= row < bottom and left <= column < right
                visible[int(pasted.partners[place]) if is_pasted else place, row, column] = True
    for item in items:
        assert item.values.get("psnr_trained") == 160.0
        assert item.values.get("ssim_trained") == pytest.approx(1.0)
        assert item.values.get("psnr_seen") == 160.0
        assert item.values.get("seen") == pytest.approx(float(visible[item.index].double().mean()))


def test_the_error_over_the_seen_part_is_that_of_a_loop_over_its_pixels(watched: Watched) -> None:
    truth, world = trained(watched)
    noise = 0.1 * torch.randn(truth.batches[0].inputs.shape, generator=torch.Generator().manual_seed(1))
    shown = truth.batches[0].inputs + noise
    items = scores(guess(shown), truth, world)
    pasted = CutMixRecord.written_in(truth.draws[0])
    assert pasted is not None
    assert pasted.boxes is not None
    assert pasted.partners is not None
    pixels, originals = (to_pixels(x, world.data.dataset.spec) for x in (shown, truth.original_batches[0].inputs))
    region = inside(pasted.boxes, 8, 8)
    for item in items:
        errors = []
        for place in range(4):
            for row in range(8):
                for column in range(8):
                    source = int(pasted.partners[place]) if bool(region[place, row, column]) else place
                    if source == item.index:
                        errors.append(float(pixels[place, 0, row, column] - originals[source, 0, row, column]) ** 2)
        expected = -10 * math.log10(sum(errors) / len(errors))
        # Whoever returned the originals themselves is judged as such, where that is better.
        assert item.values.get("psnr_seen") is not None
        assert item.values.get("psnr_seen") >= expected - 1e-3
        assert (
            item.values["psnr_seen"] == pytest.approx(expected, abs=1e-3)
            or item.values["psnr_seen"] < item.values["psnr"] + 20
        )


def test_originals_count_as_well_as_composites(watched: Watched) -> None:
    truth, world = trained(watched)
    items = scores(guess(truth.original_batches[0].inputs), truth, world)
    assert [item.values.get("psnr_seen") for item in items] == [160.0] * 4
    assert min(item.values.get("psnr_trained") or 0.0 for item in items) < 60
    assert min(item.values.get("ssim_trained") or 0.0 for item in items) < 0.99


def test_what_was_not_guessed_shows_nothing(watched: Watched) -> None:
    truth, world = trained(watched)
    items = scores(complete(guess(truth.batches[0].inputs[:3]), 4), truth, world)
    assert sorted(item.values["psnr_trained"] for item in items) == [0.0, 160.0, 160.0, 160.0]
    missing = next(item for item in items if item.is_missing)
    sole = scores(complete(guess(truth.batches[0].inputs[:0]), 4), truth, world)
    worst = {"psnr_trained": 0.0, "ssim_trained": -1.0, "psnr_seen": 0.0}
    assert all({name: item.values[name] for name in worst} == worst for item in sole)
    assert missing.values.get("seen") == sole[missing.index].values.get("seen")


def test_label_shares_are_compared_with_the_mixed_labels(watched: Watched) -> None:
    truth, world = trained(watched, 1)
    batch = truth.batches[0]
    mixed = (batch.labels > 0).sum(1) == 2
    assert bool(mixed.any())
    for shares, right in ((batch.labels, True), (batch.labels.roll(1, 1), False)):
        items = scores(guess(batch.inputs, Batch(batch.inputs, shares)), truth, world)
        for item, is_mixed, label in zip(items, mixed.tolist(), batch.labels, strict=True):
            assert item.values.get("minor_share") == (
                pytest.approx(float(label.topk(2).values[1])) if is_mixed else None
            )
            assert item.values.get("minor_found") == (float(right) if is_mixed else None)
            assert (item.values.get("share_error") == 0.0) is (is_mixed and right)
    assert all(item.values.get("minor_found") is None for item in scores(guess(batch.inputs), truth, world))


def test_over_several_steps_every_box_shows_more_of_a_record(watched: Watched) -> None:
    federation = {"algorithm": "fedavg", "local_epochs": 3, "batch_size": 4}
    partition = {"scheme": "resampled", "examples_per_client": 4}
    several, world = trained(watched, federation=federation, partition=partition)
    originals = unique_examples(several.original_batches).inputs
    assert len(several.draws) == 3
    items = scores(guess(originals), several, world)
    assert all(item.values.get("psnr_trained") is None and item.values.get("psnr_seen") == 160.0 for item in items)
    one, _ = trained(watched, federation={**federation, "local_epochs": 1}, partition=partition)
    first = scores(guess(originals), one, world)
    before, after = ([item.values.get("seen", 0.0) for item in own] for own in (first, items))
    assert all(later >= own for own, later in zip(before, after, strict=True))
    assert sum(after) > sum(before)


def test_nothing_is_added_where_nothing_was_mixed_and_absent_scores_are_not_written(watched: Watched) -> None:
    truth, world = trained(watched, components=[])
    items = scores(guess(truth.original_batches[0].inputs), truth, world)
    assert all(not item.values.keys() & {"psnr_trained", "psnr_seen", "seen"} for item in items)
    assert "psnr_trained" not in items[0].model_dump()
    assert ItemScore.model_validate_json(items[0].model_dump_json()) == items[0]
    erased, _ = trained(watched, components=[{**CUTMIX, "mode": "cutout"}])
    item = scores(guess(erased.batches[0].inputs), erased, world)[0]
    box = erased.draws[0]["cutmix.boxes"][:1]
    assert item.values.get("seen") == pytest.approx(1.0 - float(inside(box, 8, 8).double().mean()))
    blended, _ = trained(watched, components=[{**CUTMIX, "mode": "mixup"}])
    item = scores(guess(blended.batches[0].inputs), blended, world)[0]
    assert (item.values.get("psnr_trained"), item.values.get("psnr_seen"), item.values.get("seen")) == (
        160.0,
        None,
        None,
    )


@pytest.mark.parametrize("client", range(4))
def test_with_one_box_the_batch_is_put_together_again_bit_by_bit(watched: Watched, client: int) -> None:
    truth, _ = trained(watched, client, components=[{**CUTMIX, "per_sample": False}])
    pasted = CutMixRecord.written_in(truth.draws[0])
    assert pasted is not None
    assert pasted.boxes is not None
    assert pasted.partners is not None
    assert torch.equal(gather(truth.batches[0].inputs, pasted.partners, pasted.boxes), truth.original_batches[0].inputs)
    assert CutMixRecord.written_in({}) is None
    assert replace(truth, draws=()).draws == ()
