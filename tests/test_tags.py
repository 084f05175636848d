"""Tags through the federation: labels of tokens that are not the text itself."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from fedsim import observe
from fedsim import world as worlds
from fedsim.client import local_training
from fedsim.data.partition import describe_partition
from fedsim.errors import FedsimError
from fedsim.hooks import check_update
from fedsim.replay import replay
from fedsim.scenario import Scenario
from fedsim.types import Batch, WireEntry
from fedsim.world import World


def test_granted_tags_of_several_steps_keep_their_sentences_and_lose_their_order() -> None:
    tags = torch.tensor([[2, 0, -100], [0, 2, 1], [0, 1, 2]])
    batch = Batch(torch.zeros(3, 3, dtype=torch.long), tags)
    assert torch.equal(observe._labels(batch, 1), tags)
    assert observe._labels(batch, 2).tolist() == [[0, 1, 2], [0, 2, 1], [2, 0, -100]]


def test_a_partition_counts_sentences_and_no_tags() -> None:
    tags = torch.tensor([[2, 0, -100], [0, 2, 1], [0, 1, 2]])
    told = describe_partition(
        (torch.tensor([0, 2]), torch.tensor([1])), tags, scheme="iid", class_names=("O", "A", "B")
    )
    assert told.class_names == ("text",)
    assert told.class_counts == ((0, (2,)), (1, (1,)))


def federation(scenario: Callable[..., Scenario], **changes: Any) -> World:
    tables = {
        "data": {"name": "digit-tags", "sentences": 60},
        "model": {"name": "tiny-llama", "width": 16, "hidden": 16},
        "federation": {"clients": 3, "batch_size": 2, "algorithm": "fedavg", "local_steps": 2},
    }
    return worlds.build(scenario(**{**tables, **changes}))


def test_a_client_trains_a_tagger_and_its_tags_can_be_granted(scenario: Callable[..., Scenario]) -> None:
    world = federation(scenario)
    update, truth = local_training(world, world.first_weights, 1, 0)
    assert update.tensors["lm_head.score.weight"].shape == (2, 16)
    entry = WireEntry(1, 0, world.first_weights, update)
    assert replay(world, entry).matches
    seen = observe.observe(world, entry, truth, ("labels", "batch-size", "dropout-rates"))
    assert seen.labels is not None
    assert seen.labels.shape == (4, 12)
    check_update(seen)
    with pytest.raises(FedsimError, match="label 2 is out of range, expected 0 to 1"):
        check_update(replace(seen, labels=seen.labels.clamp_min(2)))


def test_granted_tags_are_no_text_and_so_allowed(scenario: Callable[..., Scenario]) -> None:
    threat = {"knows": ["labels", "batch-size"]}
    federation(scenario, attacks=[{"name": "dager"}], threat=threat).check()
