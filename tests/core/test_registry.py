import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.hooks import Component, Layer, ModelComponent
from fedsim.core.registry.discovery import modules_below
from fedsim.core.types import Config

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("kinds", "folder"), [(("attack", "membership"), "attacks"), (("defense",), "defenses")], ids=str
)
def test_methods_are_found_by_folder(kinds: tuple[registry.Kind, ...], folder: str) -> None:
    """Every file of a family is a method, but for the bases of families, parts with an underscore, and the core."""
    files = {path for path in (ROOT / folder).glob("*/[!_]*.py") if path.parent.name != "core" and path.stem != "base"}
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    assert {method.module for kind in kinds for method in registry.methods(kind).values()} == names


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


class Nothing(Layer[Config]):
    def prepare(self, model: Any, generator: Any) -> Any:
        return model


class Model(ModelComponent[Config]):
    def prepare(self, model: Any, generator: Any) -> Any:
        return model


class Decoder(Component[Config]):
    """Derives from no class that anything runs."""


@pytest.mark.parametrize(
    ("kind", "stated", "message"),
    [
        (Decoder, None, r"nothing runs the component 'own' .* derives from Component. Derive it .*: Adapter, Augm.*"),
        (Decoder, "decoder", "nothing runs the component 'own'"),
        (Decoder, "layer", "nothing runs the component 'own'"),
        (Model, None, "derives from ModelComponent. Derive it from one of these"),
        (Model, "loss", "derives from ModelComponent. Derive it from one of these"),
        (Nothing, "adapter", 'says hook="adapter", but derives from Layer, whose hook is layer. Leave hook= out'),
    ],
)
def test_a_component_that_nothing_runs_is_refused(kind: type, stated: str | None, message: str) -> None:
    with registry.temporary(), pytest.raises(FedsimError, match=message):
        registry.component("own", hook=stated, summary="does nothing")(kind)


@pytest.mark.parametrize(("kind", "stated", "base"), [(Nothing, "layer", "Layer"), (Model, "adapter", "Adapter")])
def test_a_hook_beside_the_base_class_warns(kind: type, stated: str, base: str) -> None:
    with registry.temporary():
        with pytest.warns(DeprecationWarning, match=f'leave hook="{stated}" out and derive it from {base}') as told:
            registry.component("own", hook=stated, summary="does nothing")(kind)
        assert registry.get("component", "own").hook == stated
    assert told[0].filename == __file__


def test_no_method_imports_another() -> None:
    """Files with an underscore are shared parts; methods stay independent of each other.

    Not so metrics: one may be another one of a part, as PSNR over the pixels that were seen.
    """
    for kind in set(registry.KINDS) - {"metric"}:
        modules = {method.module for method in registry.methods(kind).values()}
        for module in modules:
            tree = ast.parse(Path(str(sys.modules[module].__file__)).read_text())
            imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
            imported |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
            assert not imported & (modules - {module}), f"{module} imports another {kind}"


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_method_has_what_list_and_show_need(kind: registry.Kind) -> None:
    for name, method in registry.methods(kind).items():
        assert name == method.name
        assert method.summary
        assert len(method.doc) > 100, f"{name} does not say what it is"
        undocumented = [n for n, f in method.config.model_fields.items() if not f.description and f.annotation is float]
        assert len(undocumented) <= 3, f"{name}: {undocumented}"


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(FedsimError, match="Did you mean 'dropout-inversion'"):
        registry.get("attack", "dropout-inversoin")


@pytest.mark.parametrize(
    ("kind", "alias", "name"),
    [
        ("attack", "dia", "dropout-inversion"),
        ("attack", "spear++", "sparse-dictionary"),
        ("attack", "ig", "inverting-gradients"),
        ("defense", "signsgd", "sign"),
    ],
)
def test_the_name_of_a_paper_finds_the_method(kind: registry.Kind, alias: str, name: str) -> None:
    assert registry.get(kind, alias) is registry.get(kind, name)
    assert registry.find(alias) == registry.find(name)
    assert alias not in registry.methods(kind)


def test_an_alias_is_known_to_nobody_else() -> None:
    names = [(m.kind, own) for kind in registry.KINDS for m in registry.methods(kind).values()
             for own in (m.name, *m.aliases)]  # fmt: skip
    assert len(set(names)) == len(names)
    with registry.temporary():
        for clash in ({"name": "dia"}, {"name": "own", "aliases": ("wiig",)}, {"name": "own", "aliases": ("dia",)}):
            name, aliases = str(clash["name"]), tuple(clash.get("aliases", ()))
            with pytest.raises(FedsimError, match="two attacks are called '(dia|wiig)'"):
                registry.attack(name, summary="clashes", aliases=aliases)(Nothing)
    with pytest.raises(FedsimError, match="no attack 'spear\\+'. Did you mean 'spear"):
        registry.get("attack", "spear+")


def test_a_paper_of_others_is_no_method_s_own() -> None:
    averaging = registry.get("attack", "round-averaging")
    assert (averaging.paper, averaging.related) == ("", "1906.08935")
    every = [method for kind in registry.KINDS for method in registry.methods(kind).values()]
    assert not [method.name for method in every if method.paper and method.related]


def test_a_function_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_models.py").write_text(
        "from torch import nn\ndef tiny(spec, width):\n    return nn.Linear(width, spec.classes)\nbroken = 1 \n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    method = registry.get("model", "my_models:tiny")
    assert method.config.model_validate({"width": 5}).model_dump() == {"width": 5}
    with pytest.raises(FedsimError, match=r"model 'my_models:tiny' failed: TypeError: .*'colour'"):
        method.make(method.config.model_validate({"colour": 1}), None)
    with pytest.raises(FedsimError, match="has no 'tinny'. Did you mean 'tiny'"):
        registry.get("model", "my_models:tinny")
    with pytest.raises(FedsimError, match="cannot import 'no_such_module'"):
        registry.get("model", "no_such_module:tiny")


def test_an_installed_package_adds_an_attack(tmp_path: Path) -> None:
    """A third-party wheel needs an entry point and nothing else; built here, installed into a folder of its own."""
    package = tmp_path / "source"
    (package / "grey_guess").mkdir(parents=True)
    (package / "pyproject.toml").write_text(
        textwrap.dedent("""
        [build-system]
        requires = ["hatchling"]
        build-backend = "hatchling.build"
        [project]
        name = "grey-guess"
        version = "1"
        [project.entry-points."fedsim.attacks"]
        grey-guess = "grey_guess"
        """)
    )
    (package / "grey_guess" / "__init__.py").write_text(
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
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*install, str(package)], check=True, capture_output=True)
    listed = subprocess.run(
        [sys.executable, "-m", "fedsim.cli", "list", "attacks", "--json"],
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert '"grey-guess"' in listed.stdout
