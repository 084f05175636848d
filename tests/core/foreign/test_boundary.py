"""Private names of flwr, torch, opacus and transformers are imported in `fedsim/core/foreign/` only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("flwr", "torch", "torchvision", "opacus", "transformers")
PUBLIC = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy", "flwr.simulation"}
UNDOCUMENTED = ("opacus.accountants.analysis", "opacus.grad_sample", "transformers.models")


def is_private(name: str) -> bool:
    """Whether a dotted name is private or undocumented."""
    package, *rest = name.split(".")
    if package not in PACKAGES:
        return False
    if any(part.startswith("_") and not part.startswith("__") for part in rest):
        return True
    return name.startswith(UNDOCUMENTED)


def dotted(node: ast.expr) -> str:
    """Return a chain of names with dots, or nothing for another expression."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=inner, attr=name) if chain := dotted(inner):
            return f"{chain}.{name}"
    return ""


def private_names(code: str) -> Iterator[str]:
    """Yield private names that a file imports, or reaches through `torch.` and `nn.`."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.ImportFrom(module=str(module), names=aliases):
                yield from (f"{module}.{alias.name}" for alias in aliases if is_private(f"{module}.{alias.name}"))
                if module.startswith("flwr") and module not in PUBLIC:
                    yield module
            case ast.Import(names=aliases):
                names = [alias.name for alias in aliases]
                yield from filter(is_private, names)
                yield from (name for name in names if name.startswith("flwr.") and name not in PUBLIC)
            case ast.Attribute():
                chain = dotted(node)
                whole = f"torch.{chain}" if chain.startswith("nn.") else chain
                if is_private(whole):
                    yield whole
            case _:
                pass


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from torch.nn.modules.loss import _Loss", ["torch.nn.modules.loss._Loss"]),
        ("kind = nn.modules.dropout._DropoutNd", ["torch.nn.modules.dropout._DropoutNd"]),
        ("import torch\ntorch._foreach_add_(a, 1)", ["torch._foreach_add_"]),
        ("def f():\n    from flwr.common.config import flatten_dict", ["flwr.common.config"]),
        ("import flwr.common", ["flwr.common"]),
        ("from opacus.grad_sample import GradSampleHooks", ["opacus.grad_sample.GradSampleHooks"]),
        ("from opacus.optimizers import DPOptimizer\nimport torch.nn\nfrom flwr.app import Message", []),
        ("from transformers import DynamicCache\nself._torch = torch.__version__\nx = other._replace(a=1)", []),
    ],
)
def test_private_names_are_found(code: str, expected: list[str]) -> None:
    assert list(private_names(code)) == expected


def test_no_other_file_imports_a_private_name() -> None:
    paths = [path for room in ("attacks", "benchmarks", "defenses", "fedsim") for path in (ROOT / room).rglob("*.py")]
    foreign = ROOT / "fedsim" / "core" / "foreign"
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in paths
        if not path.is_relative_to(foreign)
        for name in private_names(path.read_text(encoding="utf-8"))
    }
    assert ROOT / "fedsim" / "api.py" in paths
    assert not found, "\n".join(sorted(found))
    assert any(True for path in foreign.rglob("*.py") for _ in private_names(path.read_text(encoding="utf-8")))
