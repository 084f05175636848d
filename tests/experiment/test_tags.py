"""Tags through the federation: labels of tokens that are not the text itself."""

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from fedsim.cli import display
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import check_update
from fedsim.core.types import Batch, WireEntry
from fedsim.data.partition import describe_partition
from fedsim.federation.apps import evaluate_model
from fedsim.federation.client import local_training
from fedsim.record import RoundRecord
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds
from fedsim.scenario.world import World
from fedsim.threat import observe
from fedsim.threat.replay import replay
from fedsim.threat.victim import Victim


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
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    assert update.tensors["lm_head.score.weight"].shape == (2, 16)
    entry = WireEntry(1, 0, world.models.first_weights, update)
    assert replay(world, entry).matches
    seen = observe.observe(Victim(world, entry, truth), ("labels", "batch-size", "dropout-rates"))
    assert seen.labels is not None
    assert seen.labels.shape == (4, 12)
    check_update(seen)
    with pytest.raises(FedsimError, match="label 2 is out of range, expected 0 to 1"):
        check_update(replace(seen, labels=seen.labels.clamp_min(2)))


def test_a_tagger_of_spans_is_judged_by_their_f1(scenario: Callable[..., Scenario], tmp_path: Path) -> None:
    path = tmp_path / "tags.conll"
    path.write_text("\n\n".join(f"word{d}\tO\nAda\tB-person" for d in range(9)))
    world = federation(scenario, data={"name": "conll", "path": str(path)}, federation={"clients": 2})
    names = ("O", "B-person")
    assert world.data.dataset.class_names == names
    weights = {name: torch.zeros_like(tensor) for name, tensor in world.models.first_weights.items()}
    always = {name: {**weights, "lm_head.score.bias": F.one_hot(torch.tensor(names.index(name)), 2).float()}
              for name in names}  # fmt: skip
    measured = {name: evaluate_model(world, always[name]) for name in names}
    assert [own["test_accuracy"] for own in measured.values()] == [0.5, 0.5]
    # Two guesses a sentence, one of them right.
    assert [own["test_span_f1"] for own in measured.values()] == [0.0, 2 / 3]
    record = RoundRecord(
        round=1,
        cohort=(0,),
        participants=(0,),
        training_loss=1.0,
        test_metrics={"test_span_f1": 0.25, "test_accuracy": 0.5},
    )
    out = StringIO()
    display.PlainLines(Console(file=out, width=200)).round(record)
    assert "accuracy 50.0%, span F1 25.0%" in out.getvalue()


def test_granted_tags_are_no_text_and_so_allowed(scenario: Callable[..., Scenario]) -> None:
    threat = {"knows": ["labels", "batch-size"]}
    federation(scenario, attacks=[{"name": "dager"}], threat=threat).check()
