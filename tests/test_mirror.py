"""Every file of a method and every file of attacks and defenses has a test file in its mirrored place."""

import sys
from pathlib import Path

from fedsim.core import registry

ROOT = Path(__file__).parents[1]
WHOLE = ("attacks", "defenses")


def mirrored(file: Path) -> Path:
    """tests/ leaves out the level `fedsim`, and names no leading underscore."""
    rooms = file.parts[1:-1] if file.parts[0] == "fedsim" else file.parts[:-1]
    return Path("tests", *rooms, f"test_{file.stem.lstrip('_')}.py")


def methods() -> set[Path]:
    """Files of fedsim's own methods."""
    modules = {own.module for kind in registry.KINDS for own in registry.methods(kind).values()}
    files = (Path(str(sys.modules[module].__file__)) for module in modules if module.split(".")[0] == "fedsim")
    return {file.relative_to(ROOT) for file in files if file.is_relative_to(ROOT)}


def test_every_method_and_every_part_of_attacks_and_defenses_has_a_test_file_of_its_own() -> None:
    parts = {file.relative_to(ROOT) for room in WHOLE for file in (ROOT / room).rglob("*.py")}
    files = sorted(methods() | {file for file in parts if file.name != "__init__.py"})
    assert len(files) > 150
    missing = [
        f"{file} has no test file. Write {mirrored(file)}." for file in files if not (ROOT / mirrored(file)).exists()
    ]
    assert not missing, "\n".join(missing)
