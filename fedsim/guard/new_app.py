"""Files of `fedsim guard template`: a Flower app that works under a guard, and a policy for it."""

from __future__ import annotations

import keyword
from importlib.util import find_spec
from pathlib import Path
from string import Template

from fedsim.core.errors import FedsimError

_TEMPLATES = Path(__file__).parent / "app_files"
_POLICY = "guard.toml"
_MODULES = ("client_app", "server_app", "task")


def write_app(folder: Path) -> None:
    """Write an app named after a new folder, and a policy into the same folder.

    Raises:
        FedsimError: the folder exists, or its name is not lower-case words joined by hyphens.
    """
    name, package = folder.name, folder.name.replace("-", "_")
    if not package.isidentifier() or not name.islower() or "_" in name or keyword.iskeyword(package):
        raise FedsimError(f"'{name}' is not a name for an app: use lower-case words joined by hyphens, like my-app.")
    if folder.exists():
        raise FedsimError(f"{folder} exists already. Choose another name.")
    (folder / package).mkdir(parents=True)
    files = {"pyproject": folder / "pyproject.toml", "policy": folder / _POLICY}
    files |= {module: folder / package / f"{module}.py" for module in _MODULES}
    (folder / package / "__init__.py").write_text(f'"""{name}: an app for guarded nodes."""\n', encoding="utf-8")
    for template, path in files.items():
        text = (_TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")
        filled = Template(text).substitute(name=name, package=package, data=_example_data())
        path.write_text(filled, encoding="utf-8")


def _example_data() -> str:
    """Return the folder of scikit-learn's data sets, which the sandbox hides like any data set inside a package."""
    found = find_spec("sklearn")
    return "data" if found is None or found.origin is None else str(Path(found.origin).parent / "datasets")
