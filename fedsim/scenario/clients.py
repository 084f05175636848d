"""Tables of the federation: data partition, local training, participation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedsim.core.choices import Choice
from fedsim.core.settings import Config

Fraction = Annotated[float, Field(gt=0, le=1)]


Probability = Annotated[float, Field(ge=0, le=1)]


class Partition(Config):
    """Partition of the training examples among clients."""

    scheme: Literal["iid", "dirichlet", "by-class", "by-user", "quantity-skew", "resampled"] = "iid"
    alpha: float = Field(
        default=0.5, gt=0, description="dirichlet, quantity-skew: concentration, smaller is more uneven"
    )
    classes_per_client: int = Field(default=2, ge=1, description="by-class: distinct classes a client owns")
    examples_per_client: int = Field(default=10, ge=1, description="resampled: examples each client draws for itself")


class LabelNoise(Config):
    """Wrong labels in the training set; the data partition and the test set stay."""

    rate: Probability = Field(description="share of every class that gets a wrong label, rounded down")
    scheme: Literal["symmetric", "asymmetric"] = Field(
        default="symmetric",
        description="symmetric: any other class; asymmetric: the similar class on CIFAR-10, else the next class",
    )


class Federation(Config):
    """Engine, clients, rounds and local training."""

    engine: Literal["local", "vectorized", "ray", "superlink"] = Field(
        default="local", description="how clients are run: docs/federation.md compares the engines"
    )
    address: str | None = Field(
        default=None, description="ray, superlink: HOST:PORT of a running server; unset: fedsim starts it"
    )
    certificates: str | None = Field(
        default=None,
        description="superlink with an address: PEM file of the authority that signed its certificate; absent: no "
        "encryption, for 127.0.0.1 alone",
    )
    algorithm: Literal["fedsgd", "fedavg"] = Field(
        default="fedsgd", description="fedsgd: clients send a gradient; fedavg: a weight delta"
    )
    clients: int = Field(default=10, ge=1)
    rounds: int = Field(default=1, ge=1)
    batch_size: int = Field(default=1, ge=1, description="examples a local step (poisson: expected)")
    sampling: Literal["shuffle", "poisson"] = Field(
        default="shuffle",
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
        default=1, ge=1, description="local: processes that train clients, if a client's round needs over 50 ms"
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
        if self.certificates is not None and (self.engine != "superlink" or self.address is None):
            raise ValueError("certificates are for an external SuperLink: set engine = 'superlink' and address")
        if self.algorithm == "fedsgd" and (self.local_steps != 1 or self.local_epochs is not None):
            raise ValueError("fedsgd sends a single gradient: local_steps must be 1 (or choose algorithm = 'fedavg')")
        if self.local_steps != 1 and self.local_epochs is not None:
            raise ValueError("local_steps and local_epochs exclude each other: set only one")
        return self


class Participation(Config):
    """Client sampling and client failures: a random process with a seed, and recorded."""

    sampling: Literal["fixed", "poisson"] = Field(
        default="fixed", description="fixed: a cohort of given size; poisson: each client independently"
    )
    cohort: int | None = Field(default=None, ge=1, description="clients a round (poisson: expected); all when absent")
    fraction: Fraction | None = Field(default=None, description="share of the clients a round, instead of cohort")
    availability: Fraction = Field(default=1.0, description="probability that a client is available in a round")
    drop_before: Probability = Field(default=0.0, description="probability of dropping out before training")
    drop_during: Probability = Field(default=0.0, description="probability of dropping out during training")
    drop_after: Probability = Field(default=0.0, description="probability that the trained update is lost")
    crash: Probability = Field(default=0.0, description="probability that a client's program raises an error")
    always_crash: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(), description="clients that always crash")
    step_seconds: float = Field(default=1.0, gt=0, description="simulated seconds a local step")
    jitter: float = Field(default=0.25, ge=0, description="standard deviation of the logarithm of the duration")
    slow_fraction: Probability = Field(default=0.0, description="share of the clients that are slow in every round")
    slow_factor: float = Field(default=10.0, ge=1, description="how many times slower they are")
    deadline: float | None = Field(default=None, gt=0, description="simulated seconds until late updates are left out")
    timeout: float = Field(default=600.0, gt=0, description="real seconds until the server stops waiting")

    @property
    def is_eventful(self) -> bool:
        """Whether a sampled client can fail or be late, apart from clients in `crashing`."""
        chances = (self.drop_before, self.drop_during, self.drop_after, self.crash)
        return any(chances) or self.deadline is not None

    @model_validator(mode="after")
    def _consistent(self) -> Participation:
        if self.cohort is not None and self.fraction is not None:
            raise ValueError("cohort and fraction exclude each other: set only one")
        total = self.drop_before + self.drop_during + self.drop_after + self.crash
        if total > 1:
            raise ValueError(f"drop_before, drop_during, drop_after and crash add up to {total:g}, expected at most 1")
        return self
