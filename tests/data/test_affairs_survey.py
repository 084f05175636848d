"""The survey against statsmodels' own file, and rows of it from an update."""

import csv
import importlib.util
from pathlib import Path

import pytest
import torch

from fedsim.core import registry, seeding
from fedsim.core.errors import MissingExtra
from fedsim.core.types import Dataset, WireEntry
from fedsim.data import _shipped
from fedsim.federation.client import local_training
from fedsim.metrics.table import columns_of
from fedsim.scenario import parse
from fedsim.scenario import world as worlds
from fedsim.scenario.example import SMALL
from fedsim.threat.observe import observe
from fedsim.threat.scoring import score
from fedsim.threat.victim import Victim
from tests.conftest import KNOWN


def made(**settings: object) -> Dataset:
    method = registry.get("dataset", "affairs-survey")
    return method.make(method.config.model_validate(settings))


def test_it_has_the_rows_of_statsmodels_with_both_occupations_as_categories() -> None:
    data = made()
    assert (len(data.train), len(data.test), data.spec.shape, data.task) == (5093, 1273, (18,), "tabular")
    columns = columns_of(data.train.inputs, data.spec)
    assert columns.numbers == tuple(range(6))
    assert columns.categories == (tuple(range(6, 12)), tuple(range(12, 18)))
    found = importlib.util.find_spec("statsmodels")
    assert found is not None
    file = Path((found.submodule_search_locations or [""])[0]) / "datasets" / "fair" / "fair.csv"
    with file.open() as opened:
        told = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(opened)]
    assert torch.allclose(data.train.inputs.mean(0), torch.zeros(18), atol=1e-4)
    both = torch.cat([data.train.labels, data.test.labels])
    assert int(both.sum()) == sum(row["affairs"] > 0 for row in told)
    joined = torch.cat([data.train.inputs, data.test.inputs])
    plain = joined * torch.tensor(data.spec.std) + torch.tensor(data.spec.mean)  # 0 and 1 are a column's extremes
    ages = sorted((row["age"] - 17.5) / (42.0 - 17.5) for row in told)
    assert torch.allclose(plain[:, 1].sort().values, torch.tensor(ages), atol=1e-4)
    teachers = sum(row["occupation"] == 4 for row in told)
    assert int(plain[:, 9].round().sum()) == teachers


def test_all_answers_are_categories_where_it_is_said_so() -> None:
    data, plain = made(categories="all"), made()
    sizes = [len(category) for category in columns_of(data.train.inputs, data.spec).categories]
    assert sizes == [len(plain.train.inputs[:, column].unique()) for column in range(6)] + [6, 6]
    assert torch.equal(data.train.inputs[:, -12:], plain.train.inputs[:, -12:])
    assert torch.equal(data.train.labels, plain.train.labels)


@pytest.mark.parametrize(("attack", "batch_size"), [("closed-form-linear", 1), ("span-intersection", 4)])
def test_answers_of_the_survey_are_read_from_an_update(attack: str, batch_size: int) -> None:
    tables = {
        "title": "test",
        **SMALL,
        "data": {"name": "affairs-survey"},
        "model": {"name": "mlp", "width": 128, "depth": 2, "dropout": 0.0},
        "federation": {"clients": 4, "batch_size": batch_size},
    }
    world = worlds.build(parse(tables, "test"))
    update, truth = local_training(world, world.models.first_weights, 1, 0)
    victim = Victim(world, WireEntry(1, 0, world.models.first_weights, update), truth)
    method = registry.get("attack", attack)
    found = method.make(method.config())(observe(victim, KNOWN), seeding.generator(0, "test"), lambda _step: None)
    items = score(victim, found).record.scores
    assert [item.values["row_exact"] for item in items] == [1.0] * batch_size
    assert all(item.values["categories_right"] == 1.0 for item in items)


def test_without_statsmodels_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shipped.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=r"fedsim-privacy\[tabular\]"):
        made()
