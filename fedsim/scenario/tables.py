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
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator, model_serializer, model_validator

from fedsim.core import registry
from fedsim.core.errors import FedsimError, ScenarioError, nearest
from fedsim.core.registry import Kind, Method
from fedsim.core.types import Config, Knowledge, Server, View
from fedsim.data.label_noise import Scheme
from fedsim.privacy.secure_aggregation.config import SecureAggregation
from fedsim.record.policy import Policy

Fraction = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
_FEWEST_IN_A_SUM = 2


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

    @property
    def crafts(self) -> bool:
        """Whether the attack changes the clients' model."""
        return bool(getattr(registry.get("attack", self.name).make, "crafts", False))


class MembershipChoice(Choice):
    """A membership attack, and under which name it is reported."""

    label: str = Field(default="", description="name in the report; the attack's name when empty")


class Membership(Config):
    """Whom membership attacks judge, and which are tried."""

    candidates: int = Field(
        default=500,
        ge=2,
        description="members, and as many non-members; against a client's updates at most as many as it trained on",
    )
    attacks: tuple[MembershipChoice, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _labels_differ(self) -> Membership:
        labels = [attack.label or attack.name for attack in self.attacks]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"two attacks are reported as '{twice[0]}'. Give one a label")
        return self


class Partition(Config):
    """How the training examples are shared out."""

    scheme: Literal["iid", "dirichlet", "by-class", "by-user", "quantity-skew", "resampled"] = "iid"
    alpha: float = Field(
        default=0.5, gt=0, description="dirichlet, quantity-skew: concentration, smaller is more uneven"
    )
    classes_per_client: int = Field(default=2, ge=1, description="by-class: distinct classes a client owns")
    examples_per_client: int = Field(default=10, ge=1, description="resampled: examples each client draws for itself")


class LabelNoise(Config):
    """Wrong labels in the training set; who owns which example, and the test set, stay as they are."""

    rate: Probability = Field(description="share of every class that gets a wrong label, rounded down")
    scheme: Scheme = Field(
        default="symmetric",
        description="symmetric: any other class; asymmetric: the one it resembles on CIFAR-10, else the next",
    )


class Federation(Config):
    """Who trains, and how long."""

    engine: Literal["local", "vectorized", "ray", "superlink"] = Field(
        default="local", description="how clients are run: docs/federation.md compares the engines"
    )
    address: str | None = Field(
        default=None, description="ray, superlink: HOST:PORT of one that runs already; started here when absent"
    )
    algorithm: Literal["fedsgd", "fedavg"] = Field(
        default="fedsgd", description="fedsgd: clients send one gradient; fedavg: the change of their weights"
    )
    clients: int = Field(default=10, ge=1)
    rounds: int = Field(default=1, ge=1)
    batch_size: int = Field(default=1, ge=1, description="examples a local step (poisson: expected)")
    sampling: Literal["passes", "poisson"] = Field(
        default="passes",
        description="passes: random passes over the client's examples; poisson: each example independently, so that a "
        "batch may be empty",
    )
    local_steps: int = Field(default=1, ge=1, description="fedavg: steps a round; short rests of a pass are left out")
    local_epochs: int | None = Field(
        default=None, ge=1, description="fedavg: passes over the client's examples a round, instead of local_steps"
    )
    optimizer: Choice = Choice(name="sgd", settings={})
    keep_optimizer_state: bool = Field(
        default=False, description="the optimizer's state of a client survives rounds, as if it had never stopped"
    )
    workers: int = Field(
        default=1, ge=1, description="local: processes that train clients, once a client's round takes over 50 ms"
    )
    evaluate_every: int = Field(default=1, ge=1, description="rounds between evaluations on the test set")

    @property
    def sends(self) -> Literal["gradient", "delta"]:
        """The kind of a client's update."""
        return "gradient" if self.algorithm == "fedsgd" else "delta"

    @model_validator(mode="after")
    def _consistent(self) -> Federation:
        if self.address is not None and self.engine not in ("ray", "superlink"):
            raise ValueError(
                f"engine '{self.engine}' runs in this process: leave address out, or choose ray or superlink"
            )
        if self.algorithm == "fedsgd" and (self.local_steps != 1 or self.local_epochs is not None):
            raise ValueError("fedsgd sends one gradient: local_steps must be 1 (or choose algorithm = 'fedavg')")
        if self.local_steps != 1 and self.local_epochs is not None:
            raise ValueError("local_steps and local_epochs exclude each other: set one of them")
        return self


class Participation(Config):
    """Who takes part in a round, and what happens to clients: a declared process, seeded and recorded."""

    sampling: Literal["fixed", "poisson"] = Field(
        default="fixed", description="fixed: a cohort of given size; poisson: each client independently"
    )
    cohort: int | None = Field(default=None, ge=1, description="clients a round (poisson: expected); all when absent")
    fraction: Fraction | None = Field(default=None, description="share of the clients a round, instead of cohort")
    availability: Fraction = Field(default=1.0, description="probability that a client can be asked in a round")
    drop_before: Probability = Field(default=0.0, description="probability of dropping out before training")
    drop_during: Probability = Field(default=0.0, description="probability of dropping out during training")
    drop_after: Probability = Field(default=0.0, description="probability that the trained update is lost")
    crash: Probability = Field(default=0.0, description="probability that a client's program raises an error")
    crashing: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(), description="clients that always crash")
    step_seconds: float = Field(default=1.0, gt=0, description="simulated seconds a local step")
    jitter: float = Field(default=0.25, ge=0, description="standard deviation of the logarithm of the duration")
    slow: Probability = Field(default=0.0, description="share of the clients that are slow in every round")
    slow_factor: float = Field(default=10.0, ge=1, description="how many times slower they are")
    deadline: float | None = Field(default=None, gt=0, description="simulated seconds until late updates are left out")
    timeout: float = Field(default=600.0, gt=0, description="real seconds until the server stops waiting")

    @property
    def is_eventful(self) -> bool:
        """Whether anything can happen to a client that was asked."""
        chances = (self.drop_before, self.drop_during, self.drop_after, self.crash)
        return any(chances) or self.deadline is not None

    @model_validator(mode="after")
    def _consistent(self) -> Participation:
        if self.cohort is not None and self.fraction is not None:
            raise ValueError("cohort and fraction exclude each other: set one of them")
        total = self.drop_before + self.drop_during + self.drop_after + self.crash
        if total > 1:
            raise ValueError(f"drop_before, drop_during, drop_after and crash add up to {total:g}, expected at most 1")
        return self


class Aggregation(Choice):
    """The rule that combines updates, and the server optimizer that steps along the result."""

    name: str = "mean"
    optimizer: Choice = Choice(name="sgd", settings={"learning_rate": 1.0})

    @field_validator("optimizer")
    @classmethod
    def _full_steps(cls, optimizer: Choice) -> Choice:
        """A server that says nothing takes the whole step; a client's default would be a tenth of it."""
        if optimizer.name != "sgd":
            return optimizer
        return Choice(name="sgd", settings={"learning_rate": 1.0, **optimizer.settings})


class Threat(Config):
    """What the server does, sees and knows, and which updates are attacked."""

    server: Server = Field(
        default="honest-but-curious",
        description="honest-but-curious: it only watches; malicious: one of the attacks changes the clients' model",
    )
    sees: View = Field(
        default="single-update", description="single-update: every client's; sum: only the mean of a round's updates"
    )
    knows: tuple[Knowledge, ...] = ("labels", "batch-size", "dropout-rates", "input-statistics")
    shares: tuple[str, ...] = Field(
        default=("*",), min_length=1, description="patterns of the parameters whose tensors the server sees"
    )
    rate_error: float = Field(
        default=0.0, gt=-1, lt=1, description="error of the dropout rates that the attacker takes for known"
    )
    rounds: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1,), min_length=1)
    victims: int = Field(
        default=1,
        ge=1,
        description="clients attacked a round: the first whose updates count, by number; 1 when the server sees sums",
    )
    keep_updates: bool = Field(
        default=True, description="store the attacked updates, on the wire and before the defenses that change uploads"
    )


class AuditSettings(Config):
    """A test of every private training's own guarantee, with canaries in the training of one client."""

    canaries: int = Field(default=400, ge=2, description="added by fair coins")
    guesses: int = Field(default=100, ge=2, multiple_of=2, description="about the canaries that stand out most")
    client: int = Field(default=0, ge=0, description="whose training is audited")
    confidence: float = Field(default=0.95, gt=0.5, lt=1)

    @model_validator(mode="after")
    def _enough(self) -> AuditSettings:
        if self.guesses > self.canaries:
            raise ValueError(f"guesses is {self.guesses}, expected at most {self.canaries}, the canaries")
        return self


class Exposure(Config):
    """What the trained model remembers of the secrets that were planted into the training text."""

    candidates: int = Field(
        default=1000,
        ge=1,
        description="other sentences of a secret's form that it is ranked among; or all there are",
    )
    search: int = Field(
        default=0,
        ge=0,
        description="beginnings that the model is shown at most in a search for the likeliest filling; 0: no search",
    )


class Scoring(Config):
    """When a reconstruction counts as a success, and how intervals are drawn."""

    metric: Literal["psnr", "ssim", "mse"] = "ssim"
    threshold: float = Field(default=0.5, description="success: psnr or ssim above, mse below")
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=2000, ge=100, description="bootstrap resamples of the victims")


Values = dict[str, tuple[Any, ...] | dict[str, dict[str, Any]]]


class Sweep(Config):
    """Many runs of one scenario: every combination of `grid`, `runs` and `seeds`.

    An entry of `grid` is like one of `arms`: a dotted key with a list of values, or a name of the user's own with a
    table of named settings. Runs that share a seed share their victims.
    """

    grid: Values = Field(default_factory=dict)
    runs: tuple[dict[str, Any], ...] = Field(default=(), description="dotted keys that single runs set together")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(), description="the scenario's own when empty")
    minutes: float | None = Field(default=None, gt=0, description="a run that takes longer is ended, and has failed")
    memory: float | None = Field(default=None, gt=0, description="GiB of address space of a worker")

    @model_validator(mode="after")
    def _consistent(self) -> Sweep:
        empty = [key for key, entry in self.grid.items() if not entry]
        if empty:
            raise ValueError(
                f"grid: '{empty[0]}' has no value, so there is nothing to run. Give it one, or leave it out"
            )
        twice = sorted({seed for seed in self.seeds if self.seeds.count(seed) > 1})
        if twice:
            raise ValueError(f"seeds: {twice[0]} stands there twice")
        return self


class Span(Config):
    """A range to search; of whole numbers if both ends are."""

    low: int | float
    high: int | float
    log: bool = Field(default=False, description="search orders of magnitude")

    @model_validator(mode="after")
    def _consistent(self) -> Span:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"expected low below high, and low above 0 with log; got {self.low} and {self.high}")
        return self


class Tune(Config):
    """What `fedsim tune` searches: the strongest setting of one attack, for every arm."""

    attack: str = Field(description="its label, or its name")
    space: dict[str, Span | tuple[Any, ...]] = Field(
        min_length=1, description="setting to {low, high, log} or to a list of values"
    )
    trials: int = Field(default=20, ge=1, description="runs for every arm; the first is the setting as it stands")


class Scenario(Config):
    """One experiment. `arms` says what to compare; every combination is one arm of the run.

    An entry of `arms` is a dotted key with a list of values, or a name of the user's own with a table: names of its
    values, and under each the dotted keys that it sets together.
    """

    title: str = Field(min_length=1)
    description: str = ""
    minutes: float | None = Field(default=None, gt=0, description="expected duration on two cores")
    seed: int = Field(default=0, ge=0)
    data: Choice = Choice(name="mnist5k", settings={})
    partition: Partition = Partition()
    label_noise: LabelNoise | None = None
    model: ModelChoice
    federation: Federation = Federation()
    participation: Participation = Participation()
    aggregation: Aggregation = Aggregation()
    secure_aggregation: SecureAggregation | None = None
    components: tuple[Choice, ...] = ()
    defenses: tuple[Choice, ...] = ()
    threat: Threat = Threat()
    attacks: tuple[AttackChoice, ...] = ()
    membership: Membership | None = None
    audit: AuditSettings | None = None
    exposure: Exposure | None = None
    scoring: Scoring = Scoring()
    arms: Values = Field(default_factory=dict)
    sweep: Sweep | None = None
    tune: Tune | None = None
    policy: Policy = Field(default=Policy(), description="what a report judges; no part of what is run")

    @model_validator(mode="after")
    def _consistent(self) -> Scenario:
        late = [r for r in self.threat.rounds if r > self.federation.rounds]
        if late:
            raise ValueError(
                f"threat.rounds: round {late[0]} is after the last, federation.rounds = {self.federation.rounds}"
            )
        cohort, clients = self.participation.cohort, self.federation.clients
        if cohort is not None and cohort > clients:
            raise ValueError(f"participation.cohort is {cohort}, expected at most federation.clients = {clients}")
        strangers = [client for client in self.participation.crashing if client >= clients]
        if strangers:
            raise ValueError(
                f"participation.crashing: there is no client {strangers[0]}, expected numbers from 0 to {clients - 1}"
            )
        if self.audit is not None and self.audit.client >= clients:
            raise ValueError(f"audit.client: there is no client {self.audit.client}, expected 0 to {clients - 1}")
        if self.threat.victims > self.cohort_size:
            raise ValueError(
                f"threat.victims is {self.threat.victims}, expected at most {self.cohort_size}, the cohort"
            )
        labels = [attack.label or attack.name for attack in self.attacks]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"attacks: two are reported as '{twice[0]}'. Give one a label.")
        return self

    @model_validator(mode="after")
    def _sums_consistent(self) -> Scenario:
        if self.threat.sees == "sum":
            self._check_sums()
        if self.secure_aggregation is not None:
            self._check_secure_aggregation(self.secure_aggregation)
        return self

    def _check_sums(self) -> None:
        if self.threat.victims > 1:
            raise ValueError(
                f"threat.victims is {self.threat.victims}, expected 1: with threat.sees = 'sum' there is one sum a "
                "round, which holds every participant"
            )
        if self.attacks and self.federation.algorithm != "fedsgd":
            raise ValueError(
                "attacks: with threat.sees = 'sum' they need federation.algorithm = 'fedsgd'. The mean of gradients at "
                "the same weights is the gradient of all participants' examples; the mean of changes after local "
                "training is no gradient of anything"
            )

    def _check_secure_aggregation(self, settings: SecureAggregation) -> None:
        if self.threat.sees != "sum":
            raise ValueError(
                f"threat.sees is '{self.threat.sees}', but behind secure aggregation the server sees no client's "
                "update, only their sum. Set threat.sees = 'sum', or leave out secure_aggregation"
            )
        if settings.mode == "masked" and self.federation.engine == "vectorized":
            raise ValueError(
                "secure_aggregation.mode is 'masked', but the engine 'vectorized' trains clients together without "
                "messages, so there is nobody to exchange keys. Set mode = 'ideal', which gives the same sums, or "
                "federation.engine = 'local'"
            )
        if self.cohort_size < _FEWEST_IN_A_SUM:
            raise ValueError(
                "secure_aggregation: a round asks 1 client, and a sum of one is the update itself. Expected at least "
                "2: raise federation.clients, or the cohort in participation"
            )

    @property
    def cohort_size(self) -> int:
        """Clients the server asks a round: exactly (fixed) or on average (poisson)."""
        settings, clients = self.participation, self.federation.clients
        if settings.fraction is not None:
            return max(1, round(settings.fraction * clients))
        return settings.cohort or clients

    @property
    def sampling_rate(self) -> float:
        """Probability that an available client is asked in a round, under Poisson sampling."""
        return self.participation.fraction or self.cohort_size / self.federation.clients

    @property
    def crafting(self) -> AttackChoice | None:
        """The attack that changes the clients' model; None under an honest server."""
        if self.threat.server != "malicious":
            return None
        return next(choice for choice in self.attacks if choice.crafts)

    @property
    def varied(self) -> frozenset[str]:
        """The dotted keys that differ between arms, or between the runs of a sweep."""
        sweep = self.sweep or Sweep()
        entries = [*self.arms.items(), *sweep.grid.items()]
        groups = (entry for _, entry in entries if isinstance(entry, dict))
        single = (key for key, entry in entries if not isinstance(entry, dict))
        return frozenset(itertools.chain(single, *(keys for group in groups for keys in group.values()), *sweep.runs))

    def choices(self) -> Iterator[tuple[tuple[str | int, ...], Kind, Choice]]:
        """Yield (place in the file, kind, choice) of every method the scenario names."""
        yield ("data",), "dataset", self.data
        yield ("model",), "model", self.model
        yield ("federation", "optimizer"), "component", self.federation.optimizer
        yield ("aggregation",), "aggregator", self.aggregation
        yield ("aggregation", "optimizer"), "component", self.aggregation.optimizer
        for index, choice in enumerate(self.components):
            yield ("components", index), "component", choice
        for index, choice in enumerate(self.defenses):
            yield ("defenses", index), "defense", choice
        for index, choice in enumerate(self.attacks):
            yield ("attacks", index), "attack", choice
        for index, choice in enumerate(self.membership.attacks if self.membership else ()):
            yield ("membership", "attacks", index), "membership", choice


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
    for values in _combinations(scenario.arms):
        yield values, with_values(scenario.model_dump(mode="json"), values)


def expand_sweep(scenario: Scenario) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield (values, raw scenario) of every run of ``scenario.sweep``, seeds last; without one, of the scenario."""
    sweep = scenario.sweep or Sweep()
    raw = scenario.model_dump(mode="json", exclude={"sweep"})
    for values in _combinations(sweep.grid):
        for listed in sweep.runs or ({},):
            for seed in sweep.seeds or (scenario.seed,):
                filled = _filled(raw, sweep.grid, {**values, **listed})
                yield {**values, **listed, "seed": seed}, {**filled, "seed": seed}


def with_values(raw: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a raw scenario without `arms`, an arm's values filled in: by dotted key, or several by name."""
    bare = {key: value for key, value in raw.items() if key != "arms"}
    return _filled(bare, raw.get("arms", {}), values)


def _combinations(declared: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for combination in itertools.product(*declared.values()):
        yield dict(zip(declared, combination, strict=True))


def _filled(raw: Mapping[str, Any], declared: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    filled = copy.deepcopy(dict(raw))
    for key, value in values.items():
        entry = declared.get(key)
        for place, setting in (entry[value] if isinstance(entry, dict) else {key: value}).items():
            _put(filled, place.split("."), setting)
    return filled


def _settled(scenario: Scenario, source: str) -> Scenario:
    """Check the settings of every chosen method and fill in its defaults.

    A method whose name differs between the arms is left to the arms: its settings belong to each of them.
    """
    raw = scenario.model_dump(mode="json")
    problems: list[str] = []
    for place, kind, choice in scenario.choices():
        key = ".".join(map(str, place))
        if f"{key}.name" in scenario.varied:
            continue
        try:
            method = registry.get(kind, choice.name)
            _check_hook(method, place)
            _check_knowledge(method, choice, scenario)
            _check_view(method, choice, scenario)
            _check_target(method, scenario)
            _check_server(choice, scenario)
            _check_rule(method, scenario)
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
    _check_crafting(scenario, source)
    return Scenario.model_validate(raw)


def _check_hook(method: Method, place: tuple[str | int, ...]) -> None:
    is_optimizer = method.hook == "optimizer"
    if place[-1] == "optimizer" and not is_optimizer:
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


def _check_view(method: Method, choice: Choice, scenario: Scenario) -> None:
    if not isinstance(choice, AttackChoice):
        return
    views: frozenset[View] = getattr(method.make, "views", frozenset())
    if scenario.threat.sees not in views:
        raise FedsimError(
            f"'{choice.name}' works on {', '.join(sorted(views))}, but threat.sees = '{scenario.threat.sees}': the "
            "server sees one sum a round, in which the examples of all participants are mixed. Use an attack that "
            "separates them, or leave it out."
        )


def _check_target(method: Method, scenario: Scenario) -> None:
    if method.kind != "membership" or getattr(method.make, "target", "model") == "model":
        return
    if scenario.threat.sees != "single-update":
        raise FedsimError(
            f"'{method.name}' judges the updates of one client, but threat.sees = '{scenario.threat.sees}'. Set "
            "threat.sees = 'single-update', or use an attack on the model."
        )


def _check_server(choice: Choice, scenario: Scenario) -> None:
    is_honest = scenario.threat.server == "honest-but-curious" and "threat.server" not in scenario.varied
    if is_honest and isinstance(choice, AttackChoice) and choice.crafts:
        raise FedsimError(
            f"'{choice.name}' changes the model that clients receive, which an honest server does not. Set "
            "threat.server = 'malicious', or use an attack that only watches."
        )


def _check_crafting(scenario: Scenario, source: str) -> None:
    """Check that a malicious server changes the model in exactly one way."""
    if scenario.threat.server != "malicious" or any(key.startswith("attacks") for key in scenario.varied):
        return
    names = [choice.label or choice.name for choice in scenario.attacks if choice.crafts]
    if len(names) == 1:
        return
    known = ", ".join(name for name, method in registry.methods("attack").items() if getattr(method.make, "crafts", 0))
    found = f"{', '.join(names)} all do" if names else "none of the attacks does"
    raise ScenarioError(
        f"{source}: threat.server is 'malicious', so exactly one attack must change the model that clients receive, "
        f"but {found}. Expected one of: {known}."
    )


def _check_rule(method: Method, scenario: Scenario) -> None:
    if method.kind != "aggregator" or not getattr(method.make, "needs_single_updates", True):
        return
    if scenario.secure_aggregation is not None:
        raise FedsimError(
            f"'{method.name}' looks at the updates of single clients, and behind secure aggregation the server has "
            "none: it sees their sum. Given one mean in place of all updates, the rule would return it, and nobody "
            "would notice that it does nothing any more. Use 'mean', or leave out secure_aggregation."
        )
    if scenario.threat.sees == "sum" and scenario.attacks:
        raise FedsimError(
            f"'{method.name}' gives no mean of the updates, and attacks with threat.sees = 'sum' take what the server "
            "sees for the mean gradient of all participants' examples. Use 'mean', or leave the attacks out."
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
        if isinstance(place, dict) and place.get(parent) is None:
            place[parent] = {}
        place = place[int(parent)] if isinstance(place, list) else place[parent]
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
        kinds = (field.annotation, *get_args(field.annotation)) if field is not None else ()
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), model)
    return list(model.model_fields)
