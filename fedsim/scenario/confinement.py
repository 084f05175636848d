"""Confinement of file paths: an untrusted scenario reads only files of its own folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from fedsim.core.choices import Choice, ResolvedSettings
from fedsim.core.errors import ScenarioError
from fedsim.core.registry.user_functions import OpenConfig
from fedsim.core.settings import NAMES_PATH
from fedsim.scenario.tables import Scenario

Place = tuple[str, ...]


def texts_in(raw: Any) -> Iterator[str]:
    """Yield every text in nested tables and lists, without keys."""
    if isinstance(raw, str):
        yield raw
    elif isinstance(raw, Mapping):
        yield from (text for value in cast("Mapping[str, Any]", raw).values() for text in texts_in(value))
    elif isinstance(raw, list | tuple):
        yield from (text for value in cast("Sequence[Any]", raw) for text in texts_in(value))


def leaves(text: str, folder: Path) -> bool:
    """Return whether a path, relative to the working folder, leads out of a folder, directly or by a symbolic link.

    A name without a separator that is no existing file is no path.
    """
    if "\0" in text or not (os.path.lexists(text) or os.sep in text or text == os.pardir):
        return False
    path, root = Path(text), folder.resolve()
    if not path.resolve().is_relative_to(root):
        return True
    return any(not target.is_relative_to(root) for target in _link_targets(path, root))


def _link_targets(folder: Path, root: Path) -> Iterator[Path]:
    """Yield the resolved target of every symbolic link in a folder tree, and of the links behind links within `root`.

    A reader that follows a link to a folder also follows the links of that folder.
    """
    pending, walked = [folder.resolve()], set[Path]()
    while pending:
        tree = pending.pop()
        if tree in walked or not tree.is_relative_to(root):
            continue
        walked.add(tree)
        for inner, folders, files in os.walk(tree):
            targets = [path.resolve() for name in (*folders, *files) if (path := Path(inner, name)).is_symlink()]
            yield from targets
            pending += targets


def check_paths(scenarios: Iterable[Scenario], source: Path, allowed: Iterable[str]) -> None:
    """Check that the settings of scenarios name only files of the scenario file's folder.

    Args:
        scenarios: the scenario and all its arms and runs, with settled choices.
        source: the scenario file.
        allowed: paths given by the user, which may lead anywhere.

    Raises:
        ScenarioError: a setting names a path outside the folder; the message gives the key and three fixes.
    """
    exempt = {str(Path(text)) for text in allowed}
    for scenario in scenarios:
        for place, text in _paths_in(scenario):
            if str(Path(text)) not in exempt and leaves(text, source.parent):
                key = ".".join(place)
                raise ScenarioError(
                    f"{source}: {key}: '{text}' is outside of the scenario's folder {source.parent.resolve()}, and a "
                    f"scenario reads files of its own folder only. Give the path yourself, as in --set {key}={text}, "
                    "move the file into the folder, or add --trust, which lets the scenario read any file and name "
                    "any function."
                )


def _paths_in(table: BaseModel, place: Place = ()) -> Iterator[tuple[Place, str]]:
    """Yield (place, path) of every setting that names a file or folder and differs from its default."""
    for name, field in type(table).model_fields.items():
        value = getattr(table, name)
        if value != field.default:
            yield from _paths_of(value, _inside(table, place, name), NAMES_PATH in field.metadata)
    if isinstance(table, OpenConfig):
        for key, value in (table.model_extra or {}).items():  # of a function with unknown types
            yield from (((*place, key), text) for text in texts_in(value) if _is_elsewhere(text))


def _inside(table: BaseModel, place: Place, name: str) -> Place:
    """Return the place of a field in the scenario file."""
    if isinstance(table, Choice) and name == "settings":
        return place
    return () if isinstance(table, Scenario) and name == "questions" else (*place, name)


def _paths_of(value: Any, place: Place, is_path: bool) -> Iterator[tuple[Place, str]]:
    match value:
        case Path():
            yield place, str(value)
        case str() if is_path:
            yield place, value
        case BaseModel():
            yield from _paths_in(value, place)
        case ResolvedSettings():
            yield from _paths_in(value.config, place)
        case Mapping():
            for key, inner in cast("Mapping[str, Any]", value).items():
                yield from _paths_of(inner, (*place, str(key)), is_path)
        case tuple() | list():
            for number, inner in enumerate(cast("Sequence[Any]", value)):
                yield from _paths_of(inner, (*place, str(number)), is_path)
        case _:
            return


def _is_elsewhere(text: str) -> bool:
    return os.path.isabs(text) or text.startswith("~") or os.pardir in Path(text).parts
