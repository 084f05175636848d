"""Write the file of `fedsim new`: a working method to change, in a checkout or in a package of one's own."""

from __future__ import annotations

import ast
import importlib.util
import keyword
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Literal

from fedsim.core import registry
from fedsim.core.errors import FedsimError, nearest

NewKind = Literal["attack", "defense", "component"]
Like = Literal["matching", "closed-form", "text"]

_HERE = Path(__file__).parent
_PACKAGES: dict[NewKind, str] = {"attack": "attacks", "defense": "defenses", "component": "fedsim.components"}
_FAMILY_OF: dict[Like, str] = {"matching": "gradient_matching", "closed-form": "closed_form", "text": "text"}
_USUAL: dict[NewKind, str] = {"attack": "gradient_matching", "defense": "norm", "component": "augment"}
_NO_FAMILIES = ("attributes", "core", "generation", "membership")  # code shared by methods; methods of another kind
_BASES = {"adapter": "Adapter", "bottleneck": "Bottleneck", "layer": "Layer"}


@dataclass(frozen=True)
class Family:
    """A folder of methods: its name, and one sentence about it."""

    name: str
    holds: str


def families(kind: NewKind) -> list[Family]:
    """Return the families that a new method may belong to, sorted."""
    spec = importlib.util.find_spec(_PACKAGES[kind])
    home = Path(next(iter((spec and spec.submodule_search_locations) or ("",))))
    packages = {path.parent.name: path for path in home.glob("[!_]*/__init__.py")}
    return [Family(name, _sentence(path)) for name, path in sorted(packages.items()) if name not in _NO_FAMILIES]


def usual_family(kind: NewKind, like: Like | None) -> str:
    """Return the family of a new method for which none was named."""
    return _FAMILY_OF[like] if like else _USUAL[kind]


def write_new(kind: NewKind, name: str, root: Path, family: str | None = None, like: Like | None = None) -> Path:
    """Write the file of a new method into `root`, and return its path.

    In a checkout the file is all that is needed; elsewhere a package to install is written around it.

    Args:
        kind: kind of the method.
        name: lower-case words joined by hyphens.
        root: a checkout, or the folder that the package is written into.
        family: folder of the method: the family of an attack, the place of a defense, the hook of a component.
        like: kind of an attack; absent: that of its family.

    Raises:
        FedsimError: the name or the family is invalid, or the name or the file is taken.
    """
    words = name.split("-")
    if not all(word.isidentifier() and word.islower() for word in words) or keyword.iskeyword("_".join(words)):
        raise FedsimError(
            f"'{name}' is not a name for a method: use lower-case words joined by hyphens, like my-{kind}."
        )
    _check_is_free(kind, name)
    if like is not None and kind != "attack":
        raise FedsimError(f"--like chooses among attacks. A {kind} is written for its family: --family.")
    family = family or usual_family(kind, like)
    _check_family(kind, family)
    text = _filled(kind, name, family, like)
    if not is_checkout(root):
        return _write_package(kind, name, root, text)
    folder = root.joinpath(*_PACKAGES[kind].split("."), family)
    path = folder / f"{'_'.join(words)}.py"
    if path.exists():
        raise FedsimError(f"{path} exists already. Choose another name.")
    folder.mkdir(parents=True, exist_ok=True)
    package = folder / "__init__.py"
    if not package.exists():
        package.write_text(f'"""Hook {family}."""\n', encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    return path


def _check_is_free(kind: NewKind, name: str) -> None:
    """Check that no method of the kind has the name: two of one name would end every command."""
    taken = next((entry for entry in registry.entries(kind).values() if name in entry.names), None)
    if taken is not None:
        also = "" if taken.name == name else f", which is another name of '{taken.name}'"
        raise FedsimError(f"{kind} '{name}' is there already{also}. Choose another name; fedsim show {name}")


def is_checkout(root: Path) -> bool:
    """Tell whether a folder is a checkout of fedsim, where a method needs no package of its own."""
    return (root / "fedsim" / "__init__.py").exists()


def _write_package(kind: NewKind, name: str, root: Path, text: str) -> Path:
    """Write a package that adds the method to an installed fedsim, and return the path of its module."""
    folder = root / name
    module = f"fedsim_{name.replace('-', '_')}"
    if folder.exists():
        raise FedsimError(f"{folder} exists already. Choose another name.")
    about = (_HERE / "package.txt").read_text(encoding="utf-8")
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        Template(about).substitute(name=name, module=module, kind=kind), encoding="utf-8"
    )
    path = folder / f"{module}.py"
    path.write_text(text, encoding="utf-8")
    return path


def _filled(kind: NewKind, name: str, family: str, like: Like | None) -> str:
    """Return the text of a new method."""
    words = name.split("-")
    text = (_HERE / f"{_template(kind, family, like)}.txt").read_text(encoding="utf-8")
    return Template(text).substitute(
        name=name,
        camel="".join(word.capitalize() for word in words),
        title=name.replace("-", " ").capitalize(),
        place=family,
        base=_BASES.get(family, ""),
        hooks=", ".join(sorted(("PublicFederation", _BASES.get(family, "")))),
    )


def _check_family(kind: NewKind, family: str) -> None:
    known = families(kind)
    if family in [one.name for one in known]:
        return
    hint = nearest(family, [one.name for one in known])
    listed = "".join(f"\n  {one.name:<20}{one.holds}" for one in known)
    raise FedsimError(f"there is no family '{family}' of {kind}s.{hint} They are:{listed}")


def _template(kind: NewKind, family: str, like: Like | None) -> str:
    if kind == "attack":
        return f"attack-{like or next((method for method, name in _FAMILY_OF.items() if name == family), 'matching')}"
    if kind == "defense":
        return f"defense-{family if family in ('received', 'batch', 'model', 'examples') else 'gradient'}"
    return f"component-{'model' if family in _BASES else family}"


def _sentence(package: Path) -> str:
    """Return the first line of a package's docstring, without importing it; empty where there is none."""
    if not package.exists():
        return ""
    return (ast.get_docstring(ast.parse(package.read_text(encoding="utf-8"))) or "").partition("\n")[0]
