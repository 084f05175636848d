"""`fedsim which`, with the user's code in a subprocess."""

import functools
import json
from collections.abc import Iterator

import pytest

from fedsim.applicability import targets
from tests.cli.typed import Say

CLIENT = """
import torch
from torch import nn
def make():
    print("printed by the client")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 10))
    return model, nn.functional.cross_entropy, [(torch.rand(16, 1, 8, 8), torch.randint(10, (16,)))]
def broken():
    raise ValueError("no data today")
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The path of a client; commands that ask the same of it share the answer of one subprocess."""
    path = tmp_path_factory.mktemp("which") / "client.py"
    path.write_text(CLIENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "overview_of_target", functools.cache(targets.overview_of_target))
        yield str(path)


def test_it_answers_first_and_as_json(client: str, command: Say) -> None:
    code, told, wrong = command("which", f"{client}:make", "--json")
    assert code == 0, wrong
    answer = json.loads(told)
    assert answer["sentence"].endswith("expect exact images from closed-form-linear within a second.")
    assert answer["applicable"][0]["name"] == "closed-form-linear"
    assert "a single example makes the first weight gradient of rank one" in answer["applicable"][0]["reason"]


def test_a_mistake_names_what_was_wrong(client: str, command: Say) -> None:
    code, _, wrong = command("which", f"{client}:broken")
    assert (code, "no data today" in wrong) == (2, True)
    code, _, wrong = command("which", f"{client}:make", "--knows", "label")
    assert (code, "Did you mean 'labels'" in wrong) == (2, True)


def test_each_attack_states_cost_chance_returns_and_conditions_in_lines_of_80_columns(
    client: str, command: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, told, _ = command("which", f"{client}:make")
    lines = told.splitlines()
    first = lines.index(next(line for line in lines if line.startswith("closed-form-linear: about ")))
    assert ", chance " in lines[first]
    assert [line[2:12].strip() for line in lines[first + 1 :] if line[2:12].strip()][:3] == [
        "because",
        "returns",
        "relies on",
    ]
    assert max(map(len, lines[first : lines.index("Not tried by `auto`:")])) <= 80
