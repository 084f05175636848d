"""Classification of graphs: a model predicts one of K classes for every graph, such as a molecule.

    loss = -log softmax(outputs)_label, the mean over the graphs

A graph is a matrix of its nodes' features and joins (`fedsim.core.nets.graph_networks`). Test metrics: accuracy and
mean loss. Guesses are rounded to 0 and 1. They are scored by equality with the client's graph up to a renumbering
of its nodes, and by the shared nodes and joins, each with the baseline of public graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import torch
from torch import Tensor

from fedsim.core.nets.graph_networks import graphs_of
from fedsim.core.registry import task
from fedsim.core.types import Batch, Dataset, Modality, Reconstruction, Truth
from fedsim.core.types.tasks import Model, Scored, Shown
from fedsim.metrics import graphs
from fedsim.metrics.missing import complete
from fedsim.record import ItemScore
from fedsim.tasks.core.classes import ClassTask, class_answers
from fedsim.tasks.core.fitting import refuses_classes, refuses_inputs
from fedsim.tasks.core.images import label_values

_MATRIX = 2  # dimensions of a graph
_PUBLIC = 50  # public graphs in the mean of the baseline


@final
@task("graph-classification", summary="a class for every graph")
class GraphClassification(ClassTask):
    """Cross-entropy of the classes of graphs."""

    modality: ClassVar[Modality] = "graphs"
    noun: ClassVar[str] = "graph"

    def refuses(self, data: Dataset) -> str | None:
        """Return why examples are not graphs with a class each, or None."""
        shape = data.spec.shape
        if len(shape) != _MATRIX or shape[1] <= shape[0]:
            return f"it reads graphs of n nodes as matrices (n, features + n), and an example has shape {shape}"
        joined = graphs_of(data.train.inputs).adjacency
        if not torch.equal(joined, joined.transpose(1, 2)) or bool(((joined != 0) & (joined != 1)).any()):
            return "expected graphs with symmetric last n columns of values 0 and 1, found others"
        return refuses_inputs(data, tokens=False) or refuses_classes(data, of_tokens=False)

    def evaluate(self, model: Model, data: Dataset, generator: torch.Generator) -> Mapping[str, float]:
        """Return accuracy and loss on the test set."""
        return class_answers(self, model, data)

    def score(self, truth: Truth, examples: Batch, guess: Reconstruction, data: Dataset) -> Scored:
        """Score graphs against the originals assigned to them; a missing graph has the worst values."""
        completed = complete(guess, len(examples))
        usable = completed.inputs.isfinite().flatten(1).all(1)
        rounded = (completed.inputs.nan_to_num(0.0) > 0.5).float()  # noqa: PLR2004 - halfway
        order = _match(rounded, examples.inputs, usable)
        items = tuple(
            _item(number, rounded[index], examples, int(completed.labels[index]), data, bool(usable[index]))
            for number, index in enumerate(order.tolist())
        )
        return Scored(items=items, values=label_values(items), order=order, guess=completed)

    def show(self, inputs: Tensor, data: Dataset) -> Shown:
        """Return each graph as a list of joined node pairs."""
        return tuple(_describe_graph(graph) for graph in (inputs > 0.5).float().unbind())  # noqa: PLR2004 - halfway


def _match(guesses: Tensor, originals: Tensor, usable: Tensor) -> Tensor:
    """Return the guess assigned to each original, one-to-one, by maximal similarity."""
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - a run without attacks need not wait for SciPy

    shared = [
        [
            float(is_usable) * (1 + _score_agreement(guess, original))
            for guess, is_usable in zip(guesses, usable, strict=True)
        ]
        for original in originals
    ]
    return torch.as_tensor(linear_sum_assignment(shared, maximize=True)[1])


def _score_agreement(guess: Tensor, original: Tensor) -> float:
    measures = (graphs.graph_exact, graphs.nodes_right, graphs.joins_right)
    return sum(measure(guess, original) for measure in measures)


def _item(number: int, guess: Tensor, examples: Batch, label: int, data: Dataset, is_usable: bool) -> ItemScore:
    original, public = examples.inputs[number], data.test.inputs[:_PUBLIC]
    measures = {"graph_exact": graphs.graph_exact, "nodes_right": graphs.nodes_right, "joins_right": graphs.joins_right}
    values = {name: measure(guess, original) if is_usable else 0.0 for name, measure in measures.items()}
    values["nodes_guessed"] = graphs.nodes_guessed(original, public)
    values["joins_guessed"] = graphs.joins_guessed(original, public)
    return ItemScore(
        index=number,
        values=values,
        is_missing=not is_usable,
        label=int(examples.labels[number]),
        guessed_label=label if label >= 0 else None,
    )


def _describe_graph(graph: Tensor) -> str:
    kinds = graphs.kinds_of(graph)
    names = [f"{chr(ord('a') + kind.index(1.0)) if 1.0 in kind else '?'}{number}" for number, kind in enumerate(kinds)]
    pairs = [f"{names[first]}-{names[second]}" for first, second in graphs.joins_of(graph)]
    return f"{len(names)} nodes: {' '.join(pairs)}" if pairs else f"{len(names)} nodes, none joined"
