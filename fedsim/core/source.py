"""Scenario files: lookup by name or path, and reading."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from fedsim.core.errors import ScenarioError, did_you_mean
from fedsim.core.regular_files import NotRegularError, open_regular

_LARGEST = 4 << 20  # bytes; a real scenario has thousands
_DEEPEST = 50  # nesting of tables and lists; a real scenario has five levels
_PACKAGE = Path(__file__).resolve().parents[1]
_NUMBER = re.compile(r"^\d+_")


def find_shipped_folder() -> Path:
    """Return the folder of the shipped scenarios: in an installed package, or in the checkout."""
    folder = _PACKAGE / "shipped"
    return folder if folder.is_dir() else _PACKAGE.parent / "scenarios"


def list_scenarios() -> dict[str, Path]:
    """Return the scenarios of the local folder ``scenarios`` and the shipped scenarios, by name; local files win."""
    scenarios: dict[str, Path] = {}
    for folder in (Path("scenarios"), find_shipped_folder()):
        for path in sorted(folder.glob("*.toml")):
            scenarios.setdefault(path.stem, path)
    return scenarios


def short_name(name: str) -> str:
    """Return a scenario's name without its number."""
    return _NUMBER.sub("", name)


def find_source(given: Path) -> Path:
    """Return the scenario file for a path or a scenario's name, with or without its number.

    Raises:
        ScenarioError: unknown scenario; the message suggests the nearest name.
    """
    if given.is_file() or given.suffix or given.name != str(given):
        return given
    if given.with_suffix(".toml").is_file():
        return given.with_suffix(".toml")
    known = list_scenarios()
    short = {short_name(name): name for name in known}
    path = known.get(str(given)) or known.get(short.get(str(given), ""))
    if path is None and not given.is_dir():
        hint = did_you_mean(str(given), [*known, *short])
        raise ScenarioError(f"unknown scenario '{given}'.{hint} `fedsim list scenarios` shows all.")
    return path or given


def read_source(path: Path) -> bytes:
    """Return the content of a scenario file.

    Raises:
        ScenarioError: it is missing, unreadable, no regular file, or too large.
    """
    try:
        with open_regular(path) as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError as error:
        raise ScenarioError(f"no scenario file {path}.{_instead(path)}") from error
    except NotRegularError as error:
        if path.is_dir():
            raise ScenarioError(
                f"{path} is a folder, expected a scenario file (TOML).{_list_scenarios(path)}"
            ) from error
        raise ScenarioError(f"{path} is no regular file, expected a scenario file (TOML).") from error
    except OSError as error:
        raise ScenarioError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > _LARGEST:
        raise ScenarioError(f"{path} is too large, expected a scenario of at most {_LARGEST:,} bytes.")
    return content


def read_tables(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file, ignoring a byte-order mark.

    Raises:
        ScenarioError: it is unreadable, invalid TOML, or nested too deeply; see `read_source`.
    """
    try:
        tables = tomllib.loads(read_source(path).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ScenarioError(f"cannot read {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise _too_deep(path) from error
    level: list[Any] = [tables]
    for _ in range(_DEEPEST):
        level = [part for whole in level for part in (whole.values() if isinstance(whole, dict) else whole)]
        level = [part for part in level if isinstance(part, dict | list)]
    if level:
        raise _too_deep(path)
    return tables


def toml(scenario: Mapping[str, Any]) -> str:
    """Return a scenario as TOML; None values are omitted, since TOML has no null, and take their default."""
    return tomli_w.dumps(_drop_unset(scenario))


def _drop_unset(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _drop_unset(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, (list, tuple)):
        return [_drop_unset(inner) for inner in value if inner is not None]
    return value


def _too_deep(path: Path) -> ScenarioError:
    return ScenarioError(f"{path} nests tables and lists more than {_DEEPEST} deep, which no key of a scenario needs.")


def _list_scenarios(folder: Path) -> str:
    names = sorted(path.name for path in folder.glob("*.toml"))
    return f" It holds: {', '.join(names)}." if names else ""


def _instead(missing: Path) -> str:
    """Return a suggestion for a missing file: a shipped scenario, or the nearest file in its folder."""
    if missing.stem in list_scenarios():
        return f" fedsim has a scenario of this name: use {missing.stem} without folder and ending."
    siblings = [str(path) for path in missing.parent.glob("*.toml")] if missing.parent.is_dir() else []
    return did_you_mean(str(missing), siblings)
