"""A scenario file: who trains what on which data, who watches, and which attacks are tried.

TOML in, frozen pydantic models out. Every mistake is reported with the file, the key, what was expected
and the nearest valid name.
"""

from __future__ import annotations

import copy
import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, Field, ValidationError, model_serializer, model_validator

from fedsim import registry
from fedsim.errors import FedsimError, ScenarioError, nearest
from fedsim.registry import Kind, Method
from fedsim.types import Config, Knowledge

Fraction = Annotated[float, Field(gt=0, le=1)]


class Choice(Config):
    """A method by name; its settings stand beside the name in the same table."""

    name: str = Field(min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _split(cls, raw: Any) -> Any:
        own = set(cls.model_fields)
        if not isinstance(raw, Mapping) or "settings" in raw:
            return raw
        table = cast("Mapping[str, Any]", raw)
        return {
            **{key: value for key, value in table.items() if key in own},
            "settings": {key: value for key, value in table.items() if key not in own},
        }

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        own = {key: getattr(self, key) for key in type(self).model_fields if key != "settings"}
        return {**own, **self.settings}

    def make(self, kind: Kind, *context: Any) -> Any:
        """Build the method: a class gets its config, a function its config and `context`."""
        method = registry.get(kind, self.name)
        return method.make(method.config.model_validate(self.settings), *context)


class ModelChoice(Choice):
    """The clients' model, and where its first weights come from."""

    checkpoint: Path | None = Field(
        default=None, description="weights to start from: .npz of an earlier run, .pt or .pth"
    )


class AttackChoice(Choice):
    """An attack, under which name it is reported, and what it knows beyond the threat model."""

    label: str = Field(default="", description="name in the report; the attack's name when empty")
    also_knows: tuple[Knowledge, ...] = ()


class Partition(Config):
    """How the training examples are shared out."""

    scheme: Literal["iid", "dirichlet", "by-class"] = "iid"
    alpha: float = Field(default=0.5, gt=0, description="dirichlet: concentration, smaller is more uneven")
    classes_per_client: int = Field(default=2, ge=1, description="by-class: distinct classes a client owns")


class Federation(Config):
    """Who trains, how long, and how the server combines what it gets."""

    engine: Literal["local"] = "local"
    algorithm: Literal["fedsgd", "fedavg"] = Field(
        default="fedsgd", description="fedsgd: clients send one gradient; fedavg: the change of their weights"
    )
    clients: int = Field(default=10, ge=1)
    cohort: int | None = Field(default=None, ge=1, description="clients a round; all when absent")
    rounds: int = Field(default=1, ge=1)
    batch_size: int = Field(default=1, ge=1, description="examples a local step")
    local_steps: int = Field(default=1, ge=1, description="fedavg: steps a round")
    optimizer: Choice = Choice(name="sgd", settings={})
    server_learning_rate: float = Field(default=1.0, gt=0, description="step of the server along the mean update")
    weighted: bool = Field(default=True, description="weigh updates by their number of examples")
    evaluate_every: int = Field(default=1, ge=1, description="rounds between evaluations on the test set")

    @model_validator(mode="after")
    def _consistent(self) -> Federation:
        if self.cohort is not None and self.cohort > self.clients:
            raise ValueError(f"cohort is {self.cohort}, expected at most clients = {self.clients}")
        if self.algorithm == "fedsgd" and self.local_steps != 1:
            raise ValueError("fedsgd sends one gradient: local_steps must be 1 (or choose algorithm = 'fedavg')")
        return self


class Threat(Config):
    """What the curious server knows, and which updates are attacked."""

    knows: tuple[Knowledge, ...] = ("labels", "batch-size", "dropout-rates", "input-statistics")
    rounds: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1,), min_length=1)
    victims: int = Field(default=1, ge=1, description="clients attacked a round: the first of its cohort, by number")


class Scoring(Config):
    """When a reconstruction counts as a success, and how intervals are drawn."""

    metric: Literal["psnr", "ssim", "mse"] = "ssim"
    threshold: float = Field(default=0.5, description="success: psnr or ssim above, mse below")
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=2000, ge=100, description="bootstrap resamples of the victims")


class Scenario(Config):
    """One experiment. `arms` lists values to compare; every combination is one arm of the run."""

    title: str = Field(min_length=1)
    description: str = ""
    minutes: float | None = Field(default=None, gt=0, description="expected duration on two cores")
    seed: int = Field(default=0, ge=0)
    data: Choice = Choice(name="mnist5k", settings={})
    partition: Partition = Partition()
    model: ModelChoice
    federation: Federation = Federation()
    components: tuple[Choice, ...] = ()
    defenses: tuple[Choice, ...] = ()
    threat: Threat = Threat()
    attacks: tuple[AttackChoice, ...] = ()
    scoring: Scoring = Scoring()
    arms: dict[str, tuple[Any, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Scenario:
        late = [r for r in self.threat.rounds if r > self.federation.rounds]
        if late:
            raise ValueError(
                f"threat.rounds: round {late[0]} is after the last, federation.rounds = {self.federation.rounds}"
            )
        cohort = self.federation.cohort or self.federation.clients
        if self.threat.victims > cohort:
            raise ValueError(f"threat.victims is {self.threat.victims}, expected at most {cohort}, the cohort")
        labels = [attack.label or attack.name for attack in self.attacks]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"attacks: two are reported as '{twice[0]}'. Give one a label.")
        return self

    def choices(self) -> Iterator[tuple[tuple[str | int, ...], Kind, Choice]]:
        """Yield (place in the file, kind, choice) of every method the scenario names."""
        yield ("data",), "dataset", self.data
        yield ("model",), "model", self.model
        yield ("federation", "optimizer"), "component", self.federation.optimizer
        for index, choice in enumerate(self.components):
            yield ("components", index), "component", choice
        for index, choice in enumerate(self.defenses):
            yield ("defenses", index), "defense", choice
        for index, choice in enumerate(self.attacks):
            yield ("attacks", index), "attack", choice


def load(path: Path, overrides: Sequence[str] = ()) -> Scenario:
    """Read a scenario file.

    Args:
        path: a TOML file.
        overrides: ``key.path=value`` with a TOML value, for example ``attacks.0.iterations=500``; a bare word is text.

    Returns:
        The scenario with every default filled in.

    Raises:
        ScenarioError: the file is missing, is not TOML, or does not fit; the message lists every problem.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        siblings = [str(p) for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        raise ScenarioError(f"there is no scenario file {path}.{nearest(str(path), siblings)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"cannot read {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path} is not valid TOML: {error}") from error
    for override in overrides:
        _set(raw, override)
    return parse(raw, str(path))


def parse(raw: Mapping[str, Any], source: str) -> Scenario:
    """Return the scenario in `raw`, each method's settings filled in.

    Raises:
        ScenarioError: listing every problem with its place in `source`.
    """
    try:
        scenario = Scenario.model_validate(raw)
    except ValidationError as error:
        raise ScenarioError(_explain(source, error, Scenario)) from error
    scenario = _settled(scenario, source)
    for _, arm in expand(scenario) if scenario.arms else ():
        parse(arm, source)
    return scenario


def arms(scenario: Scenario) -> list[tuple[dict[str, Any], Scenario]]:
    """Return (values, scenario) of every combination in ``scenario.arms``; one arm without values when it is empty."""
    if not scenario.arms:
        return [({}, scenario)]
    return [(values, parse(raw, "arms")) for values, raw in expand(scenario)]


def expand(scenario: Scenario) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield (values, raw scenario) of every combination of the values in ``scenario.arms``."""
    for combination in itertools.product(*scenario.arms.values()):
        values = dict(zip(scenario.arms, combination, strict=True))
        yield values, with_values(scenario.model_dump(mode="json", exclude={"arms"}), values)


def with_values(raw: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a raw scenario with an arm's values, by dotted key, filled in."""
    filled = copy.deepcopy(dict(raw))
    for key, value in values.items():
        _put(filled, key.split("."), value)
    return filled


def _settled(scenario: Scenario, source: str) -> Scenario:
    """Check the settings of every chosen method and fill in its defaults.

    A method whose name differs between the arms is left to the arms: its settings belong to each of them.
    """
    raw = scenario.model_dump(mode="json")
    problems: list[str] = []
    for place, kind, choice in scenario.choices():
        key = ".".join(map(str, place))
        if f"{key}.name" in scenario.arms:
            continue
        try:
            method = registry.get(kind, choice.name)
            _check_hook(method, place)
            _check_knowledge(method, choice, scenario)
            settings = method.config.model_validate(choice.settings).model_dump(mode="json")
        except ValidationError as error:
            problems.append(_explain(source, error, registry.get(kind, choice.name).config, place))
        except FedsimError as error:
            problems.append(f"{source}: {key}.name: {error}")
        else:
            own = {k: v for k, v in choice.model_dump(mode="json").items() if k not in choice.settings}
            _put(raw, [str(part) for part in place], {**own, **settings})
    if problems:
        raise ScenarioError("\n".join(problems))
    return Scenario.model_validate(raw)


def _check_hook(method: Method, place: tuple[str | int, ...]) -> None:
    is_optimizer = method.hook == "optimizer"
    if place == ("federation", "optimizer") and not is_optimizer:
        raise FedsimError(f"'{method.name}' is a component for hook {method.hook}, expected an optimizer.")
    if place[0] == "components" and is_optimizer:
        raise FedsimError(f"'{method.name}' is an optimizer: set federation.optimizer instead.")


def _check_knowledge(method: Method, choice: Choice, scenario: Scenario) -> None:
    if not isinstance(choice, AttackChoice):
        return
    needs: frozenset[Knowledge] = getattr(method.make, "needs", frozenset())
    missing = sorted(needs - {*scenario.threat.knows, *choice.also_knows})
    if missing:
        raise FedsimError(
            f"'{choice.name}' needs {', '.join(missing)}, which the threat model does not grant. "
            f"Add also_knows = {missing} to this attack, or to threat.knows."
        )


def _set(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    path = _path(key)
    if not equals or not path:
        raise ScenarioError(f"--set {override}: expected key=value, for example attacks.0.iterations=500")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    try:
        _put(raw, path, value)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ScenarioError(f"--set {override}: there is nothing at '{key}' in the scenario.") from error


def _path(key: str) -> list[str]:
    """The parts of a TOML key, quoted ones whole; empty when it is none."""
    try:
        place: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return []
    path: list[str] = []
    while isinstance(place, dict):
        ((part, place),) = cast("dict[str, Any]", place).items()
        path.append(part)
    return path


def _put(raw: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *parents, last = path
    place: Any = raw
    for parent in parents:
        place = place[int(parent)] if isinstance(place, list) else place.setdefault(parent, {})
    if isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value


def _explain(source: str, error: ValidationError, model: type[BaseModel], place: tuple[str | int, ...] = ()) -> str:
    lines: list[str] = []
    for problem in error.errors():
        where = (*place, *problem["loc"])
        key = ".".join(map(str, where)) or "scenario"
        if problem["type"] == "extra_forbidden":
            siblings = _fields_at(model, problem["loc"][:-1])
            lines.append(f"{source}: {key}: there is no such key.{nearest(str(where[-1]), siblings)}")
            continue
        message = problem["msg"].removeprefix("Value error, ")
        given = "" if problem["type"] in ("missing", "value_error") else f", got {problem['input']!r}"
        lines.append(f"{source}: {key}: {message[0].lower()}{message[1:]}{given}")
    return "\n".join(lines)


def _fields_at(model: type[BaseModel], place: Sequence[str | int]) -> list[str]:
    for part in place:
        field = model.model_fields.get(str(part)) if isinstance(part, str) else None
        if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
    return list(model.model_fields)
