"""Where the tests of a file stand."""

from pathlib import Path

ROOMS = ("attacks", "defenses", "fedsim")


def mirrored(file: Path) -> Path:
    """Return the test file of a source file, both from the repository's root on.

    tests/ leaves out the level `fedsim`, and names no leading underscore.
    """
    rooms = file.parts[1:-1] if file.parts[0] == "fedsim" else file.parts[:-1]
    return Path("tests", *rooms, f"test_{file.stem.lstrip('_')}.py")
