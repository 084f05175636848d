"""Overrides of scenario values by `--set`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from fedsim.core.errors import ScenarioError
from fedsim.scenario.combinations import set_value

_AXES = (("arms",), ("sweep", "grid"))


def override(raw: dict[str, Any], text: str) -> None:
    """Set a value in the tables of a scenario: ``key.path=value``, with a TOML value; a bare word is text.

    A key that is varied by arms or a sweep stays an axis, with this single value.

    Raises:
        ScenarioError: the path does not exist, or an arm would override this value.
    """
    key, equals, given = text.partition("=")
    path = _path(key)
    if not equals or not path:
        raise ScenarioError(f"--set {text}: expected key=value, for example attacks.0.max_iterations=500")
    value = _value(given)
    path = _as_written(raw, path)
    for table in _AXES:
        path = _as_axis(raw, table, path, value)
        _settle_axes(raw, table, ".".join(path), value, text)
    _settle_runs(raw, ".".join(path), text)
    try:
        set_value(raw, path, value)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ScenarioError(f"--set {text}: key '{key}' is not in the scenario.") from error


def value_of(text: str) -> Any:
    """Return the value of ``key.path=value``."""
    return _value(text.partition("=")[2])


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _path(key: str) -> list[str]:
    """Return the parts of a TOML key, with quoted parts whole; empty if invalid."""
    try:
        place: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return []
    path: list[str] = []
    while isinstance(place, dict):
        ((part, place),) = cast("dict[str, Any]", place).items()
        path.append(part)
    return path


def _as_written(place: Any, path: Sequence[str]) -> list[str]:
    """Return the path with parts joined that a table holds as a single key, e.g. ``model.dropout`` in arms."""
    if not path:
        return []
    table = cast("Mapping[str, Any]", place) if isinstance(place, dict) else {}
    length = next((n for n in range(len(path), 1, -1) if ".".join(path[:n]) in table), 1)
    key = ".".join(path[:length])
    return [key, *_as_written(table.get(key), path[length:])]


def _as_axis(raw: Mapping[str, Any], table: tuple[str, ...], path: list[str], value: Any) -> list[str]:
    """Return the path of a new axis below `table` with its dotted key as a single part."""
    key = path[len(table) :]
    is_new = tuple(path[: len(table)]) == table and key and key[0] not in _table_at(raw, table)
    return [*table, ".".join(key)] if is_new and isinstance(value, list) else path


def _settle_axes(raw: Mapping[str, Any], table: tuple[str, ...], key: str, value: Any, text: str) -> None:
    """Reduce the axis of this key to this value."""
    declared = _table_at(raw, table)
    for axis, entry in declared.items():
        place = ".".join((*table, axis))
        if isinstance(entry, dict):
            _refuse_covered(key, _keys(entry.values()), place, text)
        elif axis == key:
            declared[axis] = [value]
        else:
            _refuse_covered(key, (axis,), place, text)


def _settle_runs(raw: Mapping[str, Any], key: str, text: str) -> None:
    """Clear the sweep's seeds if the key is the seed, and reject keys that `sweep.runs` sets."""
    sweep = _table_at(raw, ("sweep",))
    if key == "seed" and sweep.get("seeds"):
        sweep["seeds"] = []
    _refuse_covered(key, _keys(sweep.get("runs", ())), "sweep.runs", text)


def _keys(groups: Iterable[Any]) -> Iterator[str]:
    for group in groups:
        if isinstance(group, dict):
            yield from cast("dict[str, Any]", group)


def _refuse_covered(key: str, keys: Iterable[str], place: str, text: str) -> None:
    covering = next((other_key for other_key in keys if f"{key}.".startswith(f"{other_key}.")), None)
    if covering is not None:
        raise ScenarioError(
            f"--set {text}: {place} sets '{covering}' itself and would override this value. "
            f"Change it in {place}, or remove it by --set '{place.partition('.')[0]}={{}}' "
            "first."
        )


def _table_at(raw: Mapping[str, Any], table: Sequence[str]) -> dict[str, Any]:
    """Return the table at a path; empty if it does not exist."""
    place: Any = raw
    for part in table:
        place = cast("Mapping[str, Any]", place).get(part) if isinstance(place, dict) else None
    return cast("dict[str, Any]", place) if isinstance(place, dict) else {}
