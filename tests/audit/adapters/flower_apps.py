"""Copies of the Flower app of the examples."""

import shutil
from pathlib import Path

EXAMPLE = Path(__file__).parents[3] / "scenarios" / "45_audit_kinds" / "flower_app"


class Apps:
    """Copies of the example, each with a package of its own name, since Python keeps the modules of every app."""

    number = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, *changes: tuple[str, str, str]) -> Path:
        """Return the folder of a copy; a change is a file, a text in it and another text."""
        Apps.number += 1
        package, folder = f"digit_app_{Apps.number}", self.folder / f"app{Apps.number}"
        shutil.copytree(EXAMPLE, folder)
        (folder / "digit_app").rename(folder / package)
        for name, old, new in changes:
            file = next(folder.rglob(name))
            text = file.read_text()
            assert old in text
            file.write_text(text.replace(old, new))
        for file in [*folder.rglob("*.py"), folder / "pyproject.toml"]:
            file.write_text(file.read_text().replace("digit_app", package))
        return folder
