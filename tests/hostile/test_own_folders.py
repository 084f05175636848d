"""Working folders with packages and modules that are called like fedsim's and like Python's."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import attacks
from fedsim.cli.templates import write_new
from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.registry.discovery import add_others, discover
from fedsim.record.store import read_record
from tests.cli.typed import Say

ROOT = Path(__file__).parent.parent.parent
SCENARIO = """
title = "own folders"
data = { name = "tests.own:load" }
model = { name = "attacks.nets:make", width = 8 }
federation = { clients = 2, workers = 2, batch_size = 1 }
threat = { victims = 1 }
attacks = [{ name = "inverting-gradients", max_iterations = 2 }, { name = "my-attack" }]
[sweep]
seeds = [1]
"""


def fedsim(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as its script does, which leaves the working folder to fedsim."""
    return subprocess.run(
        [sys.executable, "-P", "-c", "from fedsim.cli.main import main; main()", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Somebody's project: packages `attacks`, `defenses` and `tests`, scripts in them, and a `statistics.py`."""
    (tmp_path / "fedsim").mkdir()
    (tmp_path / "fedsim" / "__init__.py").touch()  # as in a checkout, where a method is one file
    write_new("attack", "my-attack", tmp_path)
    write_new("defense", "my-defense", tmp_path)
    shutil.rmtree(tmp_path / "fedsim")
    for written in [*tmp_path.glob("*/*/my_*.py")]:  # outside a checkout there are no families
        written.rename(written.parents[1] / written.name)
    for name in ("attacks", "defenses", "tests"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "__init__.py").write_text('"""Somebody else\'s."""\n')
        (tmp_path / name / "script.py").write_text('raise SystemExit("a script ran")\n')
    (tmp_path / "statistics.py").write_text('raise SystemExit("not Python\'s own")\n')
    (tmp_path / "tests" / "own.py").write_text(
        "from fedsim.core import registry\n"
        "@registry.for_scenarios\n"
        "def load():\n"
        "    return registry.get('dataset', 'digits').make(registry.get('dataset', 'digits').config())\n"
    )
    (tmp_path / "attacks" / "_width.py").write_text("FACTOR = 2\n")
    (tmp_path / "attacks" / "nets.py").write_text(
        "from torch import nn\n"
        "from attacks._width import FACTOR\n"
        "from fedsim.core.registry import for_scenarios\n"
        "@for_scenarios\n"
        "def make(spec, width):\n"
        "    n = FACTOR * width\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, n), nn.Sigmoid(), nn.Linear(n, spec.classes))\n"
    )
    (tmp_path / "s.toml").write_text(SCENARIO)
    return tmp_path


def test_methods_of_fedsim_and_of_the_folder_are_listed_and_scripts_do_not_run(folder: Path) -> None:
    done = fedsim("list", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    names = {entry["name"] for entry in json.loads(done.stdout)}
    assert {"dropout-inversion", "dp-sgd", "my-attack", "my-defense", "lira"} <= names


@pytest.fixture
def undiscovered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process has looked for no attack yet, and will look in the folder too."""
    known = set(sys.modules)
    with registry.temporary():
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "400")
        monkeypatch.setattr(attacks, "__path__", [*attacks.__path__, str(folder / "attacks")])
        _forget()
        yield
    _forget()
    for name in set(sys.modules) - known:
        del sys.modules[name]


def _forget() -> None:
    for once in (discover, add_others):
        once.cache_clear()


METHOD = """
from fedsim.core.hooks import Attack
from fedsim.core.registry import attack
from fedsim.core.types import Config
NAME = "-".join(["com", "puted"])
@attack({name}, summary="somebody's")
class Own(Attack[Config]):
    def search(self, observation, generator, on_step): ...
"""


@pytest.mark.usefixtures("undiscovered")
def test_a_file_of_the_folder_is_imported_when_its_method_is_named(folder: Path) -> None:
    (folder / "attacks" / "broken.py").write_text(METHOD.format(name='"broken"') + "raise SystemExit")
    assert registry.get("attack", "my-attack").module == "attacks.my_attack"
    assert registry.get("attack", "dia").module == "attacks.gradient_matching.dropout_inversion"
    assert "attacks.broken" not in sys.modules
    with pytest.raises(SystemExit):
        registry.get("attack", "broken")


DISTANCE = """
from attacks.core.matching.terms import Distance, DistanceConfig
from fedsim.core.registry import distance
@distance("largest", summary="the largest difference")
class Largest(Distance[DistanceConfig]):
    def measure(self, gradients):
        return gradients.difference().amax(1)
"""


@pytest.mark.usefixtures("undiscovered")
def test_a_distance_in_the_folder_of_attacks_is_found_by_its_name(folder: Path) -> None:
    (folder / "attacks" / "largest.py").write_text(DISTANCE)
    assert registry.get("distance", "largest").module == "attacks.largest"
    with pytest.raises(FedsimError, match="there is no distance 'smallest'"):
        registry.get("distance", "smallest")


@pytest.mark.usefixtures("undiscovered")
def test_a_method_that_computes_its_name_is_found(folder: Path) -> None:
    (folder / "attacks" / "later.py").write_text(METHOD.format(name="NAME"))
    assert registry.get("attack", "com-puted").module == "attacks.later"


@pytest.mark.usefixtures("undiscovered")
@pytest.mark.parametrize("name", ['"dia"', '"mine", aliases=("dia",)'])
def test_a_method_that_is_called_like_one_of_ours_is_refused_where_that_is_named_or_all_are_listed(
    folder: Path, command: Say, name: str
) -> None:
    (folder / "attacks" / "twice.py").write_text(METHOD.format(name=name))
    registry.get("attack", "tag")
    with pytest.raises(FedsimError, match="two attacks are called 'dia': attacks.gradient_matching.dropout_inversion"):
        registry.get("attack", "dia")
    code, _, told = command("list", "attacks")
    assert code == 2
    assert "two attacks are called 'dia'" in told


@pytest.mark.usefixtures("undiscovered")
def test_a_method_that_cannot_be_imported_is_named(folder: Path, command: Say) -> None:
    (folder / "attacks" / "broken.py").write_text("from fedsim.core.registry import atack\n")
    code, _, told = command("list", "attacks")
    assert code == 2
    assert "attacks/broken.py cannot be imported: ImportError" in told
    assert "Traceback" not in told


@pytest.mark.usefixtures("undiscovered")
def test_a_method_in_a_file_that_is_called_like_one_of_our_folders_is_named(folder: Path, command: Say) -> None:
    (folder / "attacks" / "my_attack.py").rename(folder / "attacks" / "text.py")
    code, _, told = command("list", "attacks")
    assert code == 2
    assert "attacks/text.py has the name of fedsim's own 'attacks.text'. Rename the file." in told


def test_a_checkout_of_fedsim_is_no_folder_of_ones_own(
    tmp_path: Path, command: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("attacks", "defenses", "fedsim"):
        shutil.copytree(ROOT / name, tmp_path / name)
    done = fedsim("list", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path.parent)
    assert json.loads(done.stdout) == json.loads(command("list", "--json")[1])


@pytest.mark.slow
def test_a_sweep_finds_both_in_every_process(folder: Path) -> None:
    done = fedsim("sweep", "s.toml", "--jobs", "1", "--out", "o", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (folder / "o" / "runs").iterdir()
    attacks = read_record(path).arms[0].attacks
    assert [attack.method for attack in attacks] == ["inverting-gradients", "my-attack"]
    assert [victim.failure for attack in attacks for victim in attack.victims] == [None, None]


SHADOWED = [
    "torch",
    "numpy",
    "matplotlib",
    "typer",
    "rich",
    "flwr",
    "pandas",
    "seaborn",
    "sklearn",
    "statistics",
    "tests",
]


@pytest.mark.slow
def test_modules_beside_a_scenario_that_it_does_not_name_never_run(tmp_path: Path) -> None:
    """They are called like installed modules, like Python's own, and like some that are not installed."""
    for name in (*SHADOWED, "sitecustomize", "duckdb", "faker", "ray", "yaml", "_remote_module_non_scriptable"):
        (tmp_path / f"{name}.py").write_text('open("ran", "w")\nraise SystemExit("a stranger\'s module ran")\n')
    (tmp_path / "s.toml").write_text(
        'title = "t"\ndata = { name = "digits" }\nmodel = { name = "mlp", width = 8, depth = 1 }\n'
        "federation = { clients = 2, batch_size = 1 }\n"
        'attacks = [{ name = "inverting-gradients", max_iterations = 2 }]\n'
    )
    done = fedsim("run", "s.toml", "--out", "o", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o" / "report.html").exists()
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_an_installed_module_comes_before_one_of_the_folder_and_the_message_says_which(tmp_path: Path) -> None:
    (tmp_path / "textwrap.py").write_text('open("ran", "w")\n')
    (tmp_path / "s.toml").write_text('title = "t"\ndata = { name = "textwrap:load" }\nmodel = { name = "mlp" }\n')
    done = fedsim("run", "s.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "textwrap.py has no 'load'" in done.stderr
    assert str(tmp_path) not in done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_named_module_finds_its_neighbours(tmp_path: Path, command: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "neighbour.py").write_text("COUNT = 8\n")
    (tmp_path / "nearby.py").write_text(
        "from torch import nn\nfrom fedsim.core.registry import for_scenarios\n"
        "@for_scenarios\ndef make(spec):\n    from neighbour import COUNT\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, COUNT), nn.Sigmoid(), nn.Linear(COUNT, spec.classes))\n"
    )
    (tmp_path / "s.toml").write_text(
        'title = "t"\ndata = { name = "digits" }\nmodel = { name = "nearby:make" }\nfederation = { clients = 2 }\n'
    )
    code, _, complaints = command("run", "s.toml")
    assert code == 0, complaints
