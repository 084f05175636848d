"""How the audited function is found."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fedsim.audit import Plan, subject
from fedsim.audit.inspecting import Inspector, updates
from fedsim.audit.record import KNOWS
from fedsim.audit.worlds import world_of
from fedsim.core.errors import FedsimError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "beside_it.py").write_text("ANSWER = 7\n")
    (tmp_path / "project" / "train_here.py").write_text("from beside_it import ANSWER\ndef make(): return ANSWER\n")
    return tmp_path


def test_a_function_is_found_in_a_file_with_what_lies_beside_it(folder: Path) -> None:
    assert subject.found("project/train_here.py:make")() == 7
    assert subject.found(f"{folder}/project/train_here.py:make")() == 7


def test_a_missing_file_or_a_taken_name_is_a_users_mistake(folder: Path) -> None:
    with pytest.raises(FedsimError, match=r"there is no file project/trian.py for 'project/trian.py:make'"):
        subject.found("project/trian.py:make")
    (folder / "json.py").write_text("def make(): ...\n")
    with pytest.raises(FedsimError, match="has the name of module 'json', which is loaded already"):
        subject.found("json.py:make")


def test_rows_of_a_table_are_read_from_an_unchanged_model() -> None:
    torch.manual_seed(0)
    rows, labels = torch.randn(24, 6) * torch.tensor([1.0, 5.0, 1.0, 1.0, 0.1, 1.0]), torch.arange(24) % 2
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    own = subject.checked(subject.Subject(model, None, [(rows, labels)]), "rows")
    assert (own.noun, own.dataset.task, own.dataset.spec.shape) == ("row", "tabular", (6,))
    world = world_of(own, Plan(target="rows"), 1)
    found = Inspector(KNOWS, {}, lambda _said: None).inspect(world, updates(world), 1, 10, 30.0, "rows")
    assert found.recovered == 1.0
    assert found.victims[0].scores[0].values["number_error"] < 1e-3
