"""Write the files of `fedsim new`: a working method to change and its test, in a checkout or in a package."""

from __future__ import annotations

import ast
import importlib.util
import keyword
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Literal

from fedsim.core import registry
from fedsim.core.errors import FedsimError, did_you_mean

NewKind = Literal["attack", "defense", "component", "metric", "question", "task"]
Like = Literal["matching", "closed-form", "text", "malicious"]

_HERE = Path(__file__).parent
_PACKAGES: dict[NewKind, str] = {
    "attack": "attacks",
    "defense": "defenses",
    "component": "fedsim.components",
    "metric": "fedsim.metrics",
    "question": "fedsim.questions",
    "task": "fedsim.tasks",
}
_FAMILY_OF: dict[Like, str] = {
    "matching": "gradient_matching",
    "closed-form": "closed_form",
    "text": "text",
    "malicious": "malicious_server",
}
_USUAL: dict[NewKind, str] = {"attack": "gradient_matching", "defense": "norm", "component": "augment"}
_BASES = {"adapter": "Adapter", "bottleneck": "Bottleneck", "layer": "Layer"}
_OUTCOMES: dict[NewKind, str] = {
    "attack": "Recovers: the attack's output, as inputs, tokens, labels or masks.",
    "defense": "Protects: data that the attacker no longer recovers; and the guarantee, or: no guarantee.",
    "component": "Leaks: the privacy question of this method.",
}
_EXACT = ("the_image_is_exact", 'victim.scores[0].values["psnr"] > 60  # dB: rounding alone is left')
_CLAIMS: dict[str, tuple[str, str]] = {
    "attack-matching": ("the_search_comes_closer_than_its_start", "victim.objective < victim.history[0][1]"),
    "attack-closed-form": _EXACT,
    "attack-text": ("tokens_are_read", 'victim.diagnostics["tokens found"] > 0'),
    "attack-malicious": _EXACT,
}


@dataclass(frozen=True)
class Family:
    """A folder of methods: its name and a one-sentence description."""

    name: str
    holds: str


def families(kind: NewKind) -> list[Family]:
    """Return the families that a new method may belong to, sorted; empty if all methods of a kind share a folder.

    Folders of questions are left out: their methods have base classes of the question, for which no template exists.
    """
    if kind not in _USUAL:
        return []
    spec = importlib.util.find_spec(_PACKAGES[kind])
    home = Path(next(iter((spec and spec.submodule_search_locations) or ("",))))
    packages = {path.parent.name: path for path in home.glob("[!_]*/__init__.py")}
    used = {entry.module.split(".")[-2] for entry in registry.entries(kind).values() if "." in entry.module}
    used -= registry.entries("question").keys()
    return [Family(name, _sentence(path)) for name, path in sorted(packages.items()) if name in used]


def usual_family(kind: NewKind, like: Like | None) -> str:
    """Return the family of a new method for which none was named; empty for a kind without families."""
    return _FAMILY_OF[like] if like else _USUAL.get(kind, "")


def registered_name(kind: NewKind, name: str) -> str:
    """Return the name that a new method is listed under: metrics are words joined by underscores."""
    return name.replace("-", "_") if kind == "metric" else name


@dataclass(frozen=True)
class _Place:
    """Where a new method goes: its module, its file, the file of its test, and the folder of a package around both."""

    module: str
    method: Path
    test: Path
    folders: tuple[Path, ...] = ()


def write_new(
    kind: NewKind, name: str, root: Path, family: str | None = None, like: Like | None = None
) -> tuple[Path, Path]:
    """Write the file of a new method and its test into `root`, and return both paths.

    In a checkout no other file is needed; elsewhere an installable package is written around them.

    Args:
        kind: kind of the method.
        name: lower-case words joined by hyphens.
        root: a checkout, or the folder that the package is written into.
        family: folder of the method: the family of an attack, the place of a defense, the hook of a component.
        like: kind of an attack; absent: that of its family.

    Raises:
        FedsimError: the name or the family is invalid, or the name or a file exists already.
    """
    _check_name(kind, name)
    if like is not None and kind != "attack":
        raise FedsimError(f"--template chooses among attacks. A {kind} is written for its family: --family.")
    family = family or usual_family(kind, like)
    _check_family(kind, family)
    template = _template(kind, family, like)
    place = _in_checkout(kind, family, name, root) if is_checkout(root) else _in_package(name, root)
    taken = next((path for path in (*place.folders, place.method, place.test) if path.exists()), None)
    if taken is not None:
        raise FedsimError(f"{taken} exists already. Choose another name.")
    words = _words(kind, name, family, template) | {"module": place.module}
    _write(place.method, template, words)
    _write(place.test, f"test-{_tested_as(template)}", words)
    for folder in place.folders:
        _write(folder / "pyproject.toml", "package", words)
    return place.method, place.test


def _check_name(kind: NewKind, name: str) -> None:
    words = name.split("-")
    if not all(word.isidentifier() and word.islower() for word in words) or keyword.iskeyword("_".join(words)):
        raise FedsimError(
            f"'{name}' is not a name for a method: use lower-case words joined by hyphens, like my-{kind}."
        )
    _check_is_free(kind, registered_name(kind, name))


def _check_is_free(kind: NewKind, name: str) -> None:
    """Raise if a method of the kind has the name: a duplicate name would make every command fail."""
    taken = next((entry for entry in registry.entries(kind).values() if name in entry.names), None)
    if taken is not None:
        also = "" if taken.name == name else f", which is another name of '{taken.name}'"
        raise FedsimError(f"{kind} '{name}' exists already{also}. Choose another name; fedsim show {name}")


def is_checkout(root: Path) -> bool:
    """Return whether a folder is a checkout of fedsim, where a method needs no package of its own."""
    return (root / "fedsim" / "__init__.py").exists()


def _in_checkout(kind: NewKind, family: str, name: str, root: Path) -> _Place:
    """Return the place among the shipped methods; tests mirror it without the level `fedsim`."""
    stem = name.replace("-", "_")
    folders = [*_PACKAGES[kind].split("."), *([family] if family else [])]
    rooms = [folder for folder in folders if folder != "fedsim"]
    method, test = root.joinpath(*folders, f"{stem}.py"), root.joinpath("tests", *rooms, f"test_{stem}.py")
    return _Place(".".join([*folders, stem]), method, test)


def _in_package(name: str, root: Path) -> _Place:
    """Return the place in a package that adds the method to an installed fedsim."""
    stem, folder = name.replace("-", "_"), root / name
    return _Place(f"fedsim_{stem}", folder / f"fedsim_{stem}.py", folder / "tests" / f"test_{stem}.py", (folder,))


def _write(path: Path, template: str, filled: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = (_HERE / f"{template}.txt").read_text(encoding="utf-8")
    path.write_text(Template(text).substitute(filled), encoding="utf-8")


def _words(kind: NewKind, name: str, family: str, template: str) -> dict[str, str]:
    base, phrase = _BASES.get(family, ""), name.replace("-", " ")
    outcome = {"name": name, "outcome": _OUTCOMES.get(kind, "")}
    claim, shown = _CLAIMS.get(template, ("", ""))
    return {
        "name": registered_name(kind, name),
        "words": name.replace("-", "_"),
        "camel": "".join(word.capitalize() for word in name.split("-")),
        "phrase": phrase,
        "title": phrase.capitalize(),
        "kind": kind,
        "place": family,
        "base": base,
        "hooks": ", ".join(sorted(("PublicFederation", base))),
        "docstring": Template((_HERE / "method.txt").read_text(encoding="utf-8")).substitute(outcome).rstrip(),
        "claim": claim,
        "shown": shown,
    }


def _check_family(kind: NewKind, family: str) -> None:
    known = families(kind)
    if not known and family:
        raise FedsimError(f"a {kind} has no family: leave --family out.")
    if not known or family in [one.name for one in known]:
        return
    hint = did_you_mean(family, [one.name for one in known])
    listed = "".join(f"\n  {one.name:<20}{one.holds}" for one in known)
    raise FedsimError(f"unknown family '{family}' of {kind}s.{hint} Known:{listed}")


def _template(kind: NewKind, family: str, like: Like | None) -> str:
    if kind == "attack":
        return f"attack-{like or next((method for method, name in _FAMILY_OF.items() if name == family), 'matching')}"
    if kind == "defense":
        return f"defense-{family if family in ('received', 'batch', 'model', 'examples') else 'gradient'}"
    return f"component-{'model' if family in _BASES else family}" if kind == "component" else kind


def _tested_as(template: str) -> str:
    """Return the template of the test: attacks share a template, and so do methods that prepare a model."""
    return "attack" if template in _CLAIMS else "model" if template.endswith("-model") else template


def _sentence(package: Path) -> str:
    """Return the first line of a package's docstring, without importing it; empty without a docstring."""
    if not package.exists():
        return ""
    return (ast.get_docstring(ast.parse(package.read_text(encoding="utf-8"))) or "").partition("\n")[0]
