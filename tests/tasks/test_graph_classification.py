"""Scores and refusals of graphs."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedsim.core import registry
from fedsim.core.types import Batch, Dataset, InputSpec, Reconstruction
from fedsim.data.made_molecules import MadeMoleculesConfig, made_molecules
from fedsim.tasks.graph_classification import GraphClassification
from tests.tasks.truths import truth

DATA = made_molecules(MadeMoleculesConfig(molecules=40))


def task() -> GraphClassification:
    method = registry.get("task", "graph-classification")
    made = method.make(method.config())
    assert isinstance(made, GraphClassification)
    return made


def guessed(inputs: Tensor, labels: Tensor) -> Reconstruction:
    return Reconstruction(inputs, labels, None, 0.0, 1, 1, (), "test")


def scored(inputs: Tensor, examples: Batch) -> list[dict[str, float]]:
    labels = torch.zeros(len(inputs), dtype=torch.long)
    return [item.values for item in task().score(truth(examples), examples, guessed(inputs, labels), DATA).items]


def test_graphs_are_matched_in_any_order_and_rounded() -> None:
    examples = DATA.train.select(torch.tensor([0, 1, 2]))
    turned = examples.inputs.flip(0) * 0.9 + 0.02
    assert [values["graph_exact"] for values in scored(turned, examples)] == [1.0] * 3


def test_a_missing_graph_has_the_worst_values_and_the_guess_of_public_ones_stays() -> None:
    examples = DATA.train.select(torch.tensor([0, 1]))
    values = scored(examples.inputs[1:], examples)
    assert [one["nodes_right"] for one in values] == [0.0, 1.0]
    assert all(0 < one["nodes_guessed"] < 1 for one in values)


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (torch.zeros(4, 3, 8, 8), "matrices"),
        (torch.zeros(4, 5, 5), "matrices"),
        (torch.ones(4, 3, 7).triu(5), "symmetric"),
    ],
)
def test_what_is_no_graph_is_refused(inputs: Tensor, reason: str) -> None:
    batch = Batch(inputs, torch.zeros(len(inputs), dtype=torch.long))
    spec = InputSpec(tuple(inputs.shape[1:]), 2, (0.0,), (1.0,))
    data = Dataset(batch, batch, spec, ("a", "b"))
    assert reason in (task().refuses(data) or "")
    assert task().refuses(DATA) is None
    assert "numbers with a fraction" in (
        task().refuses(replace(DATA, train=Batch(DATA.train.inputs, DATA.train.labels + 0.5))) or ""
    )


def test_a_graph_is_shown_by_its_joined_nodes() -> None:
    shown = task().show(DATA.train.inputs[:2], DATA)
    assert isinstance(shown, tuple)
    assert all(text.endswith(tuple("0123456789")) and " nodes: a0-" in text for text in shown)
    assert not math.isnan(float(shown[0].split()[0]))
