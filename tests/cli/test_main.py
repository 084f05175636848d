"""The command line as a whole: mistakes and help."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.typed import ROOT, Say, fedsim


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "t.toml"), "no scenario file t.toml"),
        (("run", "s.toml", "--set", "model.name=mpl"), "Did you mean 'mlp'"),
        (("run", "s.toml", "--set", "model.dropout=1"), "s.toml: model.dropout"),
        (("run", "s.toml", "--set", "attacks.0.name=wiig"), "also_knows = ['masks']"),
        (("run", "s.toml", "--set", "data.name=cifar10", "--set", "data.path=nowhere"), "nowhere"),
        (("run", "s.toml", "--set", "data.name=own:load"), "cannot import 'own'"),
        (("run", "s.toml", "--out", "s.toml/x"), "cannot write to"),
        (("show", "wigg"), "Did you mean 'wiig'"),
        (("new", "attack", "My Attack"), "not a name for a method"),
        (("list", "attcks"), "attcks"),
        (("rum",), "rum"),
    ],
)
def test_a_mistake_is_one_clear_paragraph_and_exit_code_two(
    folder: Path, arguments: tuple[str, ...], message: str, command: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    code, _, told = command(*arguments)
    assert code == 2
    assert message in told
    assert "Traceback" not in told
    assert not (folder / "results").exists() or not list((folder / "results").glob("*/record.json"))


@pytest.mark.parametrize("name", [(), ("run",), ("list",), ("show",), ("doctor",), ("new",)])
def test_help_shows_an_example(name: tuple[str, ...], command: Say) -> None:
    code, told, _ = command(*name, "--help")
    assert code == 0
    assert not name or f"Example: fedsim {name[0]}" in told


HEAVY = {"torch", "numpy", "pydantic", "flwr", "matplotlib"}
TORCH = {"torch", "numpy", "flwr"}


def end_without(packages: set[str], arguments: list[str], cwd: Path) -> tuple[int, str, str]:
    """Return how a command ends in an interpreter of its own, which has loaded none of the packages then."""
    run = (
        "import atexit, sys; from fedsim.cli.main import main; "
        f"atexit.register(lambda: print(sorted({packages} & set(sys.modules)))); main()"
    )
    done = subprocess.run([sys.executable, "-c", run, *arguments], cwd=cwd, check=False, capture_output=True, text=True)
    told, loaded = done.stdout.splitlines()[:-1], done.stdout.splitlines()[-1]
    assert loaded == "[]"
    return done.returncode, "\n".join(told), done.stderr.replace("\n", " ").strip()


def test_a_process_of_its_own_ends_in_the_same_way(folder: Path) -> None:
    done = fedsim("run", "s.toml", "--set", "model.name=mpl", cwd=folder)
    assert done.returncode == 2
    assert "Did you mean 'mlp'" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_waits_for_no_package_that_takes_long() -> None:
    code = f"import sys; import fedsim.cli.main; print(sorted({HEAVY} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "told", "code"),
    [
        (["list"], "attacks (", 0),
        (["list", "components", "--json"], '"lora"', 0),
        (["show", "dropout-inversoin"], "Did you mean 'dropout-inversion'", 2),
        (["run", "nofile.toml"], "no scenario file nofile.toml", 2),
        (["audit", "nothere:f"], "cannot import 'nothere' for 'nothere:f': module 'nothere' not found", 2),
        (["audit", "no/file.py:f"], "no file no/file.py for 'no/file.py:f'", 2),
        (["release", "tests:f", "w.npz", "--non-members", "nothere:g"], "cannot import 'nothere'", 2),
        (["audit", "a:b", "--batch-sizes", "0"], "--batch-sizes is '0'", 2),
        (["audit", "a:b", "--weights", "w.npz"], "--weights goes with --gradients", 2),
    ],
    ids=str,
)
def test_what_needs_no_method_waits_for_no_package_that_takes_long(arguments: list[str], told: str, code: int) -> None:
    ended, out, errors = end_without(HEAVY, arguments, ROOT)
    assert ended == code, errors
    assert told in out + errors


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        ("report FOLDER", "empty"),
        ("report FOLDER", "missing"),
        ("report FOLDER", "audited"),
        ("expect FOLDER", "audited"),
        ("export FOLDER --csv", "empty"),
        ("compare . FOLDER", "missing"),
    ],
)
def test_a_folder_without_a_result_is_refused_without_torch(words: str, folder: str, tmp_path: Path) -> None:
    for held in (tmp_path / "record.json", tmp_path / "empty" / "x.txt", tmp_path / "audited" / "audit.json"):
        held.parent.mkdir(exist_ok=True)
        held.touch()
    holds = f"{folder} holds no record.json and no sweep.json: not the folder of a run or sweep."
    told = {
        "empty": holds,
        "missing": "there is no folder missing.",
        "audited": f"{holds} It holds an audit, with the page audit.html.",
    }
    assert end_without(TORCH, words.replace("FOLDER", folder).split(), tmp_path) == (2, "", told[folder])


@pytest.mark.parametrize("name", ["run", "sweep", "tune"])
def test_wrong_keys_of_a_scenario_are_told_without_torch(name: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("titel = 't'\nmodel = { name = 'mlp' }\nfederation = { client = 2 }\n")
    code, out, errors = end_without(TORCH, [name, "bad.toml"], tmp_path)
    assert (code, out) == (2, "")
    assert "federation.client: there is no such key. Did you mean 'clients'?" in errors
    assert "titel: there is no such key. Did you mean 'title'?" in errors
