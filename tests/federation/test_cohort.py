"""Many clients' rounds as one computation: what it refuses, and that rounding is all that differs."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.federation import cohort
from fedsim.federation.cohort import cohort_training
from fedsim.scenario import world as worlds
from tests.experiment.running import Build
from tests.federating import run

# At a rate of 0.1 a ReLU of the convnet comes so close to its kink that on the local engine alone a relative change of
# the first weights of 1e-7 moves an update by a fifth: there rounding is not what this file can measure.
GENTLE = {"name": "sgd", "learning_rate": 0.01}

UNEVEN = {"algorithm": "fedavg", "local_epochs": 2, "batch_size": 16, "optimizer": GENTLE}

OWN = """
import torch
from torch import nn

class Choosy(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x

def choosy(spec):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), Choosy(), nn.Linear(8, spec.classes))

class Turned(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x.transpose(0, 1), 0.5, self.training).transpose(0, 1)

def turned(spec):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), Turned(), nn.Linear(8, spec.classes))

class Normed(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, classes)

    def forward(self, x):
        return self.last(self.norm(self.first(x.flatten(1))))

def normed(spec):
    return Normed(spec.classes)

class Mixing(nn.Module):
    def forward(self, x):
        return x - x.mean(0)

def mixing(spec):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), Mixing(), nn.Linear(8, spec.classes))

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x):
        self.calls += 1
        return x

def counting(spec):
    return nn.Sequential(nn.Flatten(), Counting(), nn.Linear(64, spec.classes))
"""


def test_clients_with_unequal_shares_have_batches_and_steps_of_their_own(scenario: Build) -> None:
    built = scenario(federation={**UNEVEN, "clients": 6}, partition={"scheme": "dirichlet", "alpha": 0.3})
    world = worlds.build(built)
    sizes = [len(share) for share in world.data.shares]
    assert len({world.data.steps(client) for client in range(6)}) > 2
    trained = cohort_training(world, world.models.first_weights, 1, range(6), [{} for _ in range(6)])
    assert list(trained.examples) == [2 * size for size in sizes]


@pytest.fixture
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models_for_vectorized.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("own_models")
@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("choosy", r"cannot train '2': .*data-dependent control flow"),
        ("turned", r"cannot train '2': its mask is not batch first"),
        ("normed", r"cannot train 'norm' \(BatchNorm1d\): it mixes the examples"),
        ("counting", r"cannot train '1': it changes its buffer 'calls' in training"),
        ("mixing", r"trains this model differently: the update of client \d is off by"),
    ],
)
def test_what_cannot_be_trained_together_is_refused_by_name(scenario: Build, model: str, why: str) -> None:
    federation = {"algorithm": "fedavg", "local_epochs": 1, "batch_size": 5, "clients": 4, "engine": "vectorized"}
    built = scenario(
        model={"name": f"models_for_vectorized:{model}"},
        federation=federation,
        partition={"scheme": "dirichlet", "alpha": 1.0},
    )
    with pytest.raises(FedsimError, match=why) as refusal:
        run(built)
    assert "Use engine = 'local'." in str(refusal.value)


def test_a_loss_term_is_refused_by_name(scenario: Build) -> None:
    built = scenario(components=[{"name": "fedprox"}], federation={"engine": "vectorized"})
    with pytest.raises(FedsimError, match="engine 'vectorized' has no place for loss terms such as 'fedprox'"):
        run(built)


@pytest.mark.parametrize(("share", "is_refused"), [(1e-5, False), (3e-4, True), (5e-3, True)])
def test_training_that_differs_by_more_than_rounding_is_refused(
    scenario: Build, monkeypatch: pytest.MonkeyPatch, share: float, is_refused: bool
) -> None:
    def disturbed(*arguments: Any) -> cohort.CohortUpdates:
        trained = cohort_training(*arguments)
        directions = torch.ones_like(trained.vectors) / trained.vectors.shape[1] ** 0.5
        return replace(
            trained, vectors=trained.vectors + share * trained.vectors.norm(dim=1, keepdim=True) * directions
        )

    monkeypatch.setattr(cohort, "cohort_training", disturbed)
    world = worlds.build(scenario(federation={"engine": "vectorized", "batch_size": 2}))
    expected = pytest.raises(FedsimError, match="trains this model differently") if is_refused else nullcontext()
    with expected:
        cohort.check(world)
