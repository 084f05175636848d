"""Every method has what it needs."""

import ast
import re
import sys
from pathlib import Path

import pytest

from fedsim.core import registry
from fedsim.core.registry.index import HOME
from fedsim.core.registry.method import TIERED, Entry


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


@pytest.mark.parametrize("kind", TIERED)
def test_every_method_of_fedsim_states_its_tier(kind: registry.Kind) -> None:
    for name, method in registry.entries(kind).items():
        source = HOME.joinpath(*method.module.split(".")).with_suffix(".py").read_text()
        assert f'tier="{method.tier}"' in source, name


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_method_has_what_list_and_show_need(kind: registry.Kind) -> None:
    for name, method in registry.methods(kind).items():
        assert name == method.name
        assert method.summary
        assert method.doc, name
        undocumented = [n for n, f in method.config.model_fields.items() if not f.description and f.annotation is float]
        assert len(undocumented) <= 3, f"{name}: {undocumented}"


_WITH_FIDELITY: tuple[registry.Kind, ...] = (
    "attack",
    "defense",
    "component",
    "aggregator",
    "question",
)


@pytest.mark.parametrize("kind", _WITH_FIDELITY)
def test_every_published_method_says_what_it_is_to_its_paper(kind: registry.Kind) -> None:
    for name, entry in registry.entries(kind).items():
        assert (entry.fidelity is not None) == bool(entry.paper), f"{name}: paper and fidelity stand together"
        differs = entry.fidelity in ("variant", "inspired")
        assert bool(entry.deviates) == differs, f"{name}: `deviates` says how a variant or an inspired method differs"


@pytest.mark.parametrize("kind", _WITH_FIDELITY)
def test_the_source_of_a_docstring_agrees_with_the_decorator(kind: registry.Kind) -> None:
    for name, method in registry.methods(kind).items():
        if not method.paper:
            continue
        source = method.doc.rpartition("Source: ")[2]
        author, _, year = method.paper.partition(" ")
        cited = method.paper in source or (author in source and year[:4] in source)
        assert cited, f"{name}: the source is not {method.paper}: {source}"
        assert source.startswith("inspired by") == (method.fidelity == "inspired"), f"{name}: {source}"


@pytest.mark.parametrize("kind", _WITH_FIDELITY)
def test_a_method_that_a_paper_inspired_does_not_have_the_paper_s_name(kind: registry.Kind) -> None:
    for name, method in registry.methods(kind).items():
        named = re.match(r"inspired by (\S+),", method.doc.rpartition("Source: ")[2])
        assert named is None or named[1].lower() != name, name  # an alias may say where people look for it


def test_the_origin_of_a_method_is_a_phrase() -> None:
    method = Entry(kind="attack", name="a", module="attacks.a", summary="")
    assert method.origin == ""
    variant = Entry(
        kind="attack",
        name="b",
        module="attacks.b",
        summary="",
        paper="2104.07586",
        fidelity="variant",
        deviates="another step",
    )
    assert variant.origin == "a variant of arXiv 2104.07586: another step"
    book = Entry(
        kind="attack", name="c", module="attacks.c", summary="", paper="Srivastava 2014", fidelity="reproduction"
    )
    assert book.origin == "a reproduction of Srivastava 2014"
    table = Entry(kind="dataset", name="d", module="attacks.d", summary="", paper="cs/0306050")
    assert table.origin == "arXiv cs/0306050"
