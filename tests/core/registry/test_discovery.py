"""Methods are found by folder and by entry point."""

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.registry.discovery import modules_below
from tests.cli.typed import fedsim
from tests.core.registry.layers import Nothing

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("kind", "folder"), [("attack", "attacks"), ("defense", "defenses")])
def test_methods_are_found_by_folder(kind: registry.Kind, folder: str) -> None:
    """Every file of a family is a method, but for the bases of families, parts with an underscore, and the core."""
    files = {path for path in (ROOT / folder).glob("*/[!_]*.py") if path.parent.name != "core" and path.stem != "base"}
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    assert {method.module for method in registry.methods(kind).values()} == names


def test_a_module_below_a_folder_with_an_underscore_is_no_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("zoo", "zoo/family", "zoo/_parts", "zoo/family/_deeper"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    for name in ("zoo/family/method", "zoo/family/_part", "zoo/_parts/part", "zoo/family/_deeper/part"):
        (tmp_path / f"{name}.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list(modules_below("zoo", str(tmp_path / "zoo"))) == ["zoo.family", "zoo.family.method"]


def test_what_is_registered_for_a_time_is_forgotten() -> None:
    before = {kind: registry.methods(kind) for kind in registry.KINDS}
    with registry.temporary():
        registry.component("for-a-time", summary="does nothing")(Nothing)
        assert registry.get("component", "for-a-time").hook == "layer"
        raised = pytest.raises(FedsimError, match="no component 'for-a-time'")
    with raised:
        registry.get("component", "for-a-time")
    assert {kind: registry.methods(kind) for kind in registry.KINDS} == before


def test_an_installed_package_adds_an_attack(tmp_path: Path) -> None:
    """A package needs an entry point and nothing else: this is what pip writes of one into a folder of packages."""
    site = tmp_path / "site"
    described = site / "grey_guess-1.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: grey-guess\nVersion: 1\n")
    (described / "entry_points.txt").write_text("[fedsim.attacks]\ngrey-guess = grey_guess\n")
    (site / "grey_guess.py").write_text(
        textwrap.dedent('''
        """Guesses grey, and needs a docstring as long as any other method's docstring to say what it does and why."""
        from fedsim.core.hooks import Attack
        from fedsim.core.registry import attack
        from fedsim.core.types import Config
        class GreyConfig(Config):
            pass
        @attack("grey-guess", summary="guesses grey")
        class Grey(Attack[GreyConfig]):
            def search(self, observation, generator, on_step):
                raise ValueError
        ''')
    )
    listed = fedsim("list", "attacks", "--json", cwd=tmp_path, path=[site])
    assert '"grey-guess"' in listed.stdout, listed.stderr


SLOW = "{'scipy.stats', 'sklearn', 'matplotlib', 'transformers', 'opacus'}"


def printed(code: str) -> list[str]:
    """Return the lines that code prints in an interpreter of its own."""
    command = [sys.executable, "-c", f"import sys; from fedsim.core import registry; {code}"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()


def test_names_methods_a_run_a_report_and_a_counted_model_wait_for_no_package_that_takes_long() -> None:
    """One interpreter, which takes seconds to load everything, answers at each step what it has loaded until then."""
    heavy = "{'torch', 'pydantic', 'numpy', 'scipy', 'sklearn', 'matplotlib', 'transformers', 'flwr', 'opacus'}"
    code = (
        f"[registry.entries(kind) for kind in registry.KINDS]; print({heavy} & set(sys.modules)); "
        f"[registry.methods(kind) for kind in registry.KINDS]; print({SLOW} & set(sys.modules)); "
        "import fedsim.report; print({'matplotlib', 'jinja2'} & set(sys.modules)); "
        "from fedsim.experiment import runner; print({'scipy.stats', 'sklearn'} & set(sys.modules)); "
        "from torch import nn; from fedsim.scenario.memory import refusing_too_large\n"
        "with refusing_too_large('it'): nn.Linear(2, 2)\n"
        "print({'torch._dynamo'} & set(sys.modules))"
    )
    assert printed(code) == ["set()"] * 5


@pytest.mark.slow
def test_a_method_is_imported_when_it_is_named() -> None:
    code = (
        "method = registry.get('component', 'lora'); print(method.module); "
        "print([name for name in sys.modules if name.startswith(('fedsim.components.', 'attacks', 'fedsim.models'))])"
    )
    module, imported = printed(code)
    assert module == "fedsim.components.adapter.lora"
    names = set(ast.literal_eval(imported))
    assert module in names
    shared = "fedsim.components.core."
    assert {name for name in names if name.count(".") == 3 and not name.startswith(shared)} == {module}
    assert not any(name.startswith(("attacks.", "fedsim.models")) for name in names)


@pytest.mark.slow
def test_a_run_imports_no_method_that_its_scenario_does_not_name(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(
        'title = "t"\ndata = { name = "digits" }\nmodel = { name = "mlp", width = 8, depth = 1 }\n'
        "federation = { clients = 2, batch_size = 1 }\n"
        'attacks = [{ name = "closed-form-linear" }]\n'
    )
    code = (
        "from fedsim.core.registry.method import METHODS; import fedsim; "
        f"fedsim.run({str(tmp_path / 's.toml')!r}, out={str(tmp_path / 'run')!r}); "
        "print(sorted(f'{kind} {name}' for kind, name in METHODS if kind != 'metric'))"
    )
    *_, imported = printed(code)
    assert ast.literal_eval(imported) == [
        "aggregator mean",
        "attack closed-form-linear",
        "component sgd",
        "dataset digits",
        "model mlp",
        "question attacks",
        "task classification",
    ]
