"""Whatever a user names is a subject or one sentence."""

import sys
from pathlib import Path

import pytest

from fedsim.audit import AuditPlan, loading
from fedsim.core.errors import FedsimError
from fedsim.judgement.policy import Policy


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clients:raises", r"'clients:raises' failed: ZeroDivisionError: somebody divided by nothing \(clients.py"),
        ("clients:returns_nothing", r"returned NoneType, expected a tuple \(model, loss, loader\)"),
        ("clients:returns_no_module", "returned object for the model, expected a torch.nn.Module"),
        ("clients:fails_forward", r"fails on 2 examples of shape \(1, 8, 8\): IndexError: no such layer"),
        ("clients:lazy", "the model of 'clients:lazy' has a lazy layer: '1.weight' has no size yet"),
        ("clients:parallel", "the model of 'clients:parallel' is wrapped in DataParallel"),
        ("clients:of_opacus", "'clients:of_opacus' has a DataLoader in place of the DPDataLoader"),
        ("clients:in_place", "the model of 'clients:in_place' changes its input in place"),
        ("clients:normalised_over_batches", "batch 1: one training step failed: ValueError: Expected more than 1"),
        ("clients:makes", "has no 'makes'. Did you mean 'make'?"),
        ("clients:NO_FUNCTION", "is of type int, expected a function without arguments"),
        ("clients:of_width", "needs width, expected a function without arguments. Give defaults."),
        ("no_such_module:make", "cannot import 'no_such_module'"),
        ("clients", "names nothing to audit, expected package.module:function"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    from fedsim.audit import auditing
    from fedsim.core.time_budget import TimeBudget

    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    plan = AuditPlan(target=name, batches=(1,), minutes=1)
    with pytest.raises(FedsimError, match=message) as raised:
        auditing.run(loading.load_subject(loading.load(name), name), plan, Policy(), tmp_path, TimeBudget(60))
    assert "\n" not in str(raised.value).partition("wrap it:")[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "beside_it.py").write_text("ANSWER = 7\n")
    (tmp_path / "project" / "train_here.py").write_text("from beside_it import ANSWER\ndef make(): return ANSWER\n")
    return tmp_path


def test_a_function_is_found_in_a_file_with_what_lies_beside_it(folder: Path) -> None:
    assert loading.load("project/train_here.py:make")() == 7
    assert loading.load(f"{folder}/project/train_here.py:make")() == 7


def test_a_missing_file_or_a_taken_name_is_a_users_mistake(folder: Path) -> None:
    with pytest.raises(FedsimError, match=r"no file project/trian.py for 'project/trian.py:make'"):
        loading.load("project/trian.py:make")
    (folder / "json.py").write_text("def make(): ...\n")
    with pytest.raises(FedsimError, match="has the name of module 'json', which is loaded already"):
        loading.load("json.py:make")


def test_two_values_are_shown_the_third() -> None:
    with pytest.raises(FedsimError, match=r"'own' returned 2 values, expected a tuple") as raised:
        loading.load_subject(lambda: (1, 2), "own")
    assert "return model, None, loader  # None: cross-entropy\n" in str(raised.value)
    with pytest.raises(FedsimError) as other:
        loading.load_subject(lambda: (1, 2, 3, 4), "own")
    assert "cross-entropy" not in str(other.value)


def test_of_several_extras_the_one_with_the_packages_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "torch>=2.6",
        'transformers>=4.50; extra == "llm"',
        "transformers>=4.50; extra == 'transformers'",
        'gensim>=4.4; python_version < "3.14" and extra == "news"',
        'ruff>=0.9; extra == "dev"',
    ]
    monkeypatch.setattr(loading, "requires", lambda _name: lines)
    assert [loading.extra_of(name) for name in ("transformers", "gensim", "torch", "ruff", "nothing")] == [
        "transformers", "news", "", "", "",
    ]  # fmt: skip


def test_where_fedsim_is_not_installed_no_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise loading.PackageNotFoundError(name)

    monkeypatch.setattr(loading, "requires", missing)
    assert loading.extra_of("transformers") == ""
