"""`fedsim release`: figures, verdict and exit codes 0, 2, 3 and 4."""

import sys
from pathlib import Path

import pytest
import torch

from tests.cli.typed import Say

CODE = """
import torch
from torch import nn


def pictures(seed, n=60):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.rand(n, 1, 4, 4, generator=generator), torch.randint(2, (n,), generator=generator))]


def client():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), nn.functional.cross_entropy, pictures(1)


def others():
    return pictures(2)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delitem(sys.modules, "ward", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ward.py").write_text(CODE)
    torch.save({"1.weight": torch.eye(2, 16), "1.bias": torch.zeros(2)}, tmp_path / "model.pt")
    return tmp_path


WARD = ("ward.py:client", "model.pt", "--non-members", "ward.py:others")


def test_figures_verdict_and_page(command: Say, place: Path) -> None:
    code, printed, complaints = command("release", *WARD)
    assert (code, complaints) == (0, "")
    words = " ".join(printed.split())
    assert "Attacks on the finished model" in words
    assert "control" in words
    assert "Undecided: " in words or "Withstood: " in words
    assert (place / "results" / "release-model" / "release.html").is_file()
    assert "fedsim release ward.py:client model.pt" in (place / "results" / "release-model" / "release.md").read_text()


@pytest.mark.parametrize(
    ("limit", "code", "sentence"),
    [
        ("findings = { auc = 0.1 }", 3, "The policy is broken: loss-threshold, AUC"),
        ("max_membership_tpr = 0.1", 4, "The policy is undecided: max_membership_tpr needs 100 non-members"),
        ('max_membership_tpr = 0.1\nundecided = "pass"', 0, "needs 100 non-members"),
    ],
)
def test_a_policy_decides_the_exit_code(command: Say, place: Path, limit: str, code: int, sentence: str) -> None:
    (place / "pyproject.toml").write_text(f"[tool.fedsim.policy]\n{limit}\n")
    ended, _, complaints = command("release", *WARD)
    assert ended == code
    assert sentence in " ".join(complaints.split())


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("ward.py:client", "none.pt", "--non-members", "ward.py:others"), "no file none.pt"),
        (("ward.py:client", "model.pt"), "give --non-members package.module:name"),
        (("ward.py:client", "model.pt", "--non-members", "ward.py:other"), "has no 'other'. Did you mean 'others'?"),
        ((*WARD, "--members", "ward.py:others"), "60 examples are among the members and among the others"),
        ((*WARD, "--sites", "a"), "--sites is 'a', expected names and functions, as in a=my_pkg:site_a"),
        ((*WARD, "--secrets", "ward.py:others"), "--secrets needs a language model"),
    ],
)
@pytest.mark.usefixtures("place")
def test_a_mistake_ends_with_one_sentence(command: Say, more: tuple[str, ...], sentence: str) -> None:
    code, _, complaints = command("release", *more)
    assert code == 2
    assert sentence in " ".join(complaints.split())
    assert "Traceback" not in complaints


def test_its_help_has_an_example(command: Say) -> None:
    code, printed, _ = command("release", "--help")
    assert code == 0
    assert "Example: fedsim release my_pkg.train:make_client model.safetensors" in " ".join(printed.split())
