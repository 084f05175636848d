"""Every method has what it needs."""

import ast
import sys
from pathlib import Path

import pytest

from fedsim.core import registry


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
