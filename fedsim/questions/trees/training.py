"""Federated boosted trees with the message format of Flower's FedXgbBagging and FedXgbCyclic: xgboost JSON.

Bagging: in each round every client adds trees to the same model, and the server appends them all. Cyclic: clients add
trees in turn. As in Flower, a client without a received model estimates the base score from its own labels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsim.core.best_step import TimedConfig
from fedsim.core.errors import MissingExtra
from fedsim.core.types import Batch
from fedsim.questions.trees.types import Objective

Cover = Callable[[dict[str, Any]], dict[str, Any]]


class TreeTraining(TimedConfig):
    """Settings of the clients' training."""

    clients: int = Field(default=4, ge=2)
    rows: int = Field(default=60, ge=4, description="of each client")
    columns: int | None = Field(default=None, ge=1, description="the first columns of the table; all when absent")
    exchange: Literal["bagging", "cyclic"] = "bagging"
    rounds: int = Field(default=1, ge=1)
    trees: int = Field(default=10, ge=1, description="that a client adds in its turn")
    depth: int = Field(default=3, ge=1, le=12)
    eta: float = Field(default=0.3, gt=0, le=1, description="learning rate")
    penalty: float = Field(default=1.0, ge=0, description="lambda: the weight of squared leaf values")
    tree_method: Literal["hist", "exact"] = Field(default="hist", description="where thresholds come from")
    base_score: float | None = Field(
        default=None, description="with which every row starts; absent: the mean of the first client's labels"
    )


def load_xgboost() -> ModuleType:
    """Import xgboost.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import xgboost  # noqa: PLC0415 - an extra, and slow to load
    except ImportError:
        raise MissingExtra("xgboost, which grows trees,", "pip install 'fedsim-privacy[trees]'") from None
    return xgboost


def parameters(settings: TreeTraining, objective: Objective) -> dict[str, Any]:
    """Return xgboost's parameters; a single thread makes the order of sums deterministic."""
    base = {} if settings.base_score is None else {"base_score": settings.base_score}
    return {
        "objective": objective,
        "max_depth": settings.depth,
        "eta": settings.eta,
        "lambda": settings.penalty,
        "tree_method": settings.tree_method,
        "nthread": 1,
        "verbosity": 0,
        **base,
    }


def grow(rows: Batch, trees: int, parameters: Mapping[str, Any], before: str = "") -> str:
    """Return a client's message: the trees that it added, in xgboost's JSON.

    Args:
        rows: rows of the client, inputs (N, D) and labels (N,) or (N, 1).
        trees: number of added trees.
        parameters: parameters of xgboost.
        before: received model; empty in the first turn.
    """
    xgboost = load_xgboost()
    data = xgboost.DMatrix(rows.inputs.float().numpy(), rows.labels.flatten().float().numpy())
    booster = xgboost.Booster(dict(parameters), [data])
    if before:
        booster.load_model(bytearray(before, "utf-8"))
    begin = booster.num_boosted_rounds()
    for number in range(begin, begin + trees):
        booster.update(data, number)
    return booster[begin : begin + trees].save_raw("json").decode()


def append_trees(before: str, sent: str) -> str:
    """Return model `before` with the trees of `sent` appended; its base score stays. If `before` is empty: `sent`."""
    if not before:
        return sent
    model, sent_model = json.loads(before), json.loads(sent)
    trees, new = (ensemble["learner"]["gradient_booster"]["model"] for ensemble in (model, sent_model))
    for tree in new["trees"]:
        tree["id"] = len(trees["trees"])
        trees["trees"].append(tree)
        trees["tree_info"].append(0)
        trees["iteration_indptr"].append(len(trees["trees"]))
    trees["gbtree_model_param"]["num_trees"] = str(len(trees["trees"]))
    return json.dumps(model)


def federate(
    settings: TreeTraining,
    shares: Sequence[Batch],
    parameters: Mapping[str, Any],
    cover: Cover = lambda model: model,
    on_round: Callable[[int], None] = lambda _number: None,
) -> tuple[list[dict[int, str]], str]:
    """Run the rounds, and return each client's message in each round, by client number, and the final model.

    Args:
        settings: settings of the training.
        shares: each client's rows.
        parameters: parameters of xgboost.
        cover: defense applied to a model before it is sent.
        on_round: called before each round with its number from 0.
    """
    model, rounds = "", []
    for number in range(settings.rounds):
        on_round(number)
        before, sent = model, {}
        for client in _participants(settings, number):
            new = grow(shares[client], settings.trees, parameters, before)
            sent[client] = json.dumps(cover(json.loads(new)))
            model = append_trees(model, sent[client])
        rounds.append(sent)
    return rounds, model


def _participants(settings: TreeTraining, number: int) -> Sequence[int]:
    return range(settings.clients) if settings.exchange == "bagging" else (number % settings.clients,)


def predict(model: str, rows: Tensor) -> Tensor:
    """Return probabilities of the second class, or regression outputs, for rows (N, D), shape (N,)."""
    xgboost = load_xgboost()
    booster = xgboost.Booster({"nthread": 1, "verbosity": 0})
    booster.load_model(bytearray(model, "utf-8"))
    return torch.from_numpy(np.asarray(booster.predict(xgboost.DMatrix(rows.float().numpy()))))
