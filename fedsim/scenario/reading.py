"""Reading of scenario files, with a message for every error."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fedsim.core import registry
from fedsim.core.choices import Choice, ResolvedSettings, choices_in
from fedsim.core.errors import FedsimError, ScenarioError, did_you_mean
from fedsim.core.registry import Kind, Method
from fedsim.core.source import read_tables
from fedsim.scenario.combinations import expand, expand_sweep
from fedsim.scenario.confinement import check_paths, leaves, texts_in
from fedsim.scenario.overriding import override, value_of
from fedsim.scenario.tables import Scenario

TableT = TypeVar("TableT", bound=BaseModel)
_SERVER_RATES = {"fedsgd": 0.1, "fedavg": 1.0}  # a mean gradient is a direction, a mean weight delta is a whole step
_QUOTED = r"'([^']+)'"


def load(path: Path, overrides: Sequence[str] = (), *, trust: bool = False) -> Scenario:
    """Read a scenario file.

    Args:
        path: a TOML file.
        overrides: ``key.path=value`` with a TOML value, as ``attacks.0.max_iterations=500``; a bare word is text.
        trust: allow the names of any function and the paths of any file. Otherwise functions must be marked for
            scenarios, and files must be in the scenario's folder; paths in `overrides` may lead anywhere.

    Returns:
        The scenario with all defaults filled in.

    Raises:
        ScenarioError: the file is missing, is not TOML, or is invalid; the message lists every problem.
        FedsimError: it names a function that is not marked.
    """
    raw = read_tables(path)
    texts = tuple(texts_in(raw))
    for text in overrides:
        override(raw, text)
    for name in () if trust else sorted(set(_functions(raw))):
        registry.check_marked(name, "; --trust lets a scenario name any function, which runs with your permissions")
    scenario = parse(raw, str(path))
    if not trust and any(leaves(text, path.parent) for text in texts):
        check_paths(_variants(scenario, str(path)), path, texts_in([value_of(text) for text in overrides]))
    return scenario


def _variants(scenario: Scenario, source: str) -> Iterator[Scenario]:
    """Yield every run of a scenario's sweep, or the scenario itself without a sweep, each followed by its arms."""
    for _, raw in expand_sweep(scenario):
        single = parse(raw, source)
        yield single
        yield from (arm for _, arm in arms(single))


def _functions(raw: Any, is_name: bool = False) -> Iterator[str]:
    """Yield every user function that a raw scenario names, including arms and sweeps."""
    match raw:
        case dict():
            for key, value in raw.items():
                yield from _functions(value, key.rpartition(".")[2] == "name")
        case list():
            for value in raw:
                yield from _functions(value, is_name)
        case str() if is_name and ":" in raw:
            yield raw
        case _:
            return


def parse(raw: Mapping[str, Any], source: str) -> Scenario:
    """Return the scenario in `raw`, with all methods' settings filled in.

    Raises:
        ScenarioError: the scenario is invalid; the message lists every problem with its place in `source`.
    """
    scenario = _settle(read_table(Scenario, raw, source), source)
    for _, arm in expand(scenario) if scenario.arms else ():
        try:
            _arm(json.dumps(arm, sort_keys=True))
        except ScenarioError:
            parse(arm, source)  # raises the same error with the file's name
    return scenario


def read_settings(method: Method, overrides: Sequence[str]) -> Any:
    """Return a method's settings, given as ``key=value`` with a TOML value; a bare word is text.

    Raises:
        ScenarioError: a setting is unknown or invalid; the message lists every problem.
    """
    raw: dict[str, Any] = {}
    for text in overrides:
        override(raw, text)
    return read_table(method.config, raw, method.name)


def read_table(
    table: type[TableT], raw: Any, source: str, place: tuple[str | int, ...] = (), context: Any = None
) -> TableT:
    """Validate a table of a file, and fill in defaults.

    Args:
        table: model of the table.
        raw: keys and values from TOML.
        source: name of the file.
        place: path of the table in the file.
        context: validation context.

    Raises:
        ScenarioError: the table is invalid; the message lists every problem with its key in `source`.
    """
    try:
        return table.model_validate(raw, context=context)
    except ValidationError as error:
        raise ScenarioError(_explain(source, error, table, place)) from error


def arms(scenario: Scenario) -> list[tuple[dict[str, Any], Scenario]]:
    """Return (values, scenario) of every combination in ``scenario.arms``; without arms the scenario itself."""
    if not scenario.arms:
        return [({}, scenario)]
    return [(values, _arm(json.dumps(raw, sort_keys=True))) for values, raw in expand(scenario)]


@lru_cache(maxsize=64)
def _arm(raw: str) -> Scenario:
    """Return an arm, cached; the parsing of its scenario has validated it."""
    return parse(json.loads(raw), "arms")


def _settle(scenario: Scenario, source: str) -> Scenario:
    """Check the settings of every chosen method, and fill in its defaults.

    A method with different names in the arms is settled in each arm, because its settings depend on the arm.
    """
    from fedsim.scenario.checks import check_crafting, check_scoring  # noqa: PLC0415 - imports torch, as methods do

    settled, problems = _with_device(scenario, source)
    for place, kind, choice in scenario.choices():
        filled = _fill_in(scenario, source, place, kind, choice, problems)
        if filled is not None:
            settled = _with_part(settled, place, filled)
    problems += [f"{source}: {problem}" for problem in check_scoring(scenario)]
    if problems:
        raise ScenarioError("\n".join(problems))
    check_crafting(scenario, source)
    return settled


def _fill_in(
    scenario: Scenario, source: str, place: tuple[str | int, ...], kind: Kind, choice: Choice, problems: list[str]
) -> Choice | None:
    """Return a choice with all defaults of its method and of nested choices.

    None if arms determine the choice, or after an error, which is added to `problems`.
    """
    from fedsim.scenario.checks import check_choice, find  # noqa: PLC0415 - imports torch, as methods do

    key = _key(place)
    if f"{key}.name" in scenario.varied_keys or _is_left_to_arms(scenario, place, choice):
        return None
    try:
        method = find(kind, choice)
        check_choice(method, place, choice, scenario)
        given = {**_server_rate(scenario, place, choice), **choice.settings}
        settings = method.config.model_validate(given)
    except ValidationError as error:
        problems.append(_explain(source, error, registry.get(kind, choice.name).config, place))
        return None
    except FedsimError as error:
        problems.append(f"{source}: {key}.name: {error}")
        return None
    for inner, part in choices_in(settings):
        assert part.kind is not None, "such choices alone are yielded"
        filled = _fill_in(scenario, source, (*place, *inner), part.kind, part, problems)
        settings = settings if filled is None else _with_part(settings, inner, filled)
    name = method.name if choice.name in method.aliases else choice.name  # seeds derive from names, not aliases
    return choice.model_copy(update={"name": name, "settings": ResolvedSettings(settings)})


def _key(place: Sequence[str | int]) -> str:
    """Return the dotted key of a place in the file."""
    return ".".join(map(str, place[1:] if place[:1] == ("questions",) else place))


def _with_device(scenario: Scenario, source: str) -> tuple[Scenario, list[str]]:
    """Return the scenario with the device resolved from `auto`, and the problems with it."""
    from fedsim.core.devices import find_device  # noqa: PLC0415 - imports torch

    if "device" in scenario.varied_keys:
        return scenario, []
    try:
        device = find_device(scenario.device)
    except FedsimError as error:
        return scenario, [f"{source}: device: {error}"]
    return scenario if device.type == scenario.device else scenario.model_copy(update={"device": device.type}), []


def _is_left_to_arms(scenario: Scenario, place: Sequence[str | int], choice: Choice) -> bool:
    """Return whether the server's learning rate depends on an algorithm that the arms vary."""
    is_open = bool(_server_rate(scenario, place, choice)) and "learning_rate" not in choice.settings
    return is_open and not scenario.varied_keys.isdisjoint(("federation", "federation.algorithm"))


def _server_rate(scenario: Scenario, place: Sequence[str | int], choice: Choice) -> dict[str, float]:
    """Return the default learning rate of the server optimizer sgd, which depends on the kind of update."""
    if place != ("aggregation", "optimizer") or choice.name != "sgd":
        return {}
    return {"learning_rate": _SERVER_RATES[scenario.federation.algorithm]}


def _with_part(whole: Any, place: Sequence[str | int], part: Choice) -> Any:
    """Return a copy of a nested model with the choice at a path replaced."""
    if not place:
        return part
    if isinstance(whole, dict):
        return {**whole, place[0]: part}
    if isinstance(whole, tuple):
        held = cast("tuple[Any, ...]", whole)
        return tuple(
            _with_part(entry, place[1:], part) if index == place[0] else entry for index, entry in enumerate(held)
        )
    name = str(place[0])
    return whole.model_copy(update={name: _with_part(getattr(whole, name), place[1:], part)})


def _explain(source: str, error: ValidationError, model: type[BaseModel], place: tuple[str | int, ...] = ()) -> str:
    lines: list[str] = []
    for problem in error.errors():
        if problem["type"] == "too_short" and problem["input"]:
            continue  # the list lost invalid items, which are reported themselves
        full_place = (*place, *problem["loc"])
        key = _key(full_place) or ("scenario" if model is Scenario else "settings")
        if problem["type"] == "extra_forbidden":
            siblings = _keys_at(model, problem["loc"][:-1])
            lines.append(f"{source}: {key}: there is no such key.{did_you_mean(str(full_place[-1]), siblings)}")
            continue
        if problem["type"] == "missing":
            lines.append(f"{source}: {key}: this key is missing.{_describe_missing_key(model, problem['loc'])}")
            continue
        lines.append(f"{source}: {key}: {_wrong(problem)}")
    return "\n".join(lines)


def _wrong(problem: ErrorDetails) -> str:
    """Return the expected and the given value, with the nearest name if any."""
    message, given = problem["msg"].removeprefix("Value error, "), problem["input"]
    message = f"{message[0].lower()}{message[1:]}"
    match problem["type"]:
        case "value_error":
            return message
        case "tuple_type":
            example = f", as in [{json.dumps(given)}]" if isinstance(given, str) else ""
            return f"expected a list{example}, got {given!r}"
        case "literal_error":
            return f"{message}, got {given!r}.{did_you_mean(str(given), re.findall(_QUOTED, message))}"
        case _:
            return f"{message}, got {given!r}"


def _describe_missing_key(model: type[BaseModel], place: Sequence[str | int]) -> str:
    """Return the description of a missing key, if any."""
    field = _table_at(model, place[:-1]).model_fields.get(str(place[-1]))
    return f" Expected: {field.description}." if field is not None and field.description else ""


def _keys_at(model: type[BaseModel], place: Sequence[str | int]) -> list[str]:
    table = _table_at(model, place)
    if table is not Scenario:
        return list(table.model_fields)
    return [*(key for key in table.model_fields if key != "questions"), *registry.entries("question")]


def _table_at(model: type[BaseModel], place: Sequence[str | int]) -> type[BaseModel]:
    for part in place:
        field = model.model_fields.get(str(part)) if isinstance(part, str) else None
        kinds = (field.annotation, *get_args(field.annotation)) if field is not None else ()
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), model)
    return model
