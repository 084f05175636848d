"""Terms of the objective that attacks and scenarios name: gradient distances, and priors on inputs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar, final

from pydantic import Field, model_validator
from torch import Tensor

from attacks.core.matching.comparison import Gradients
from attacks.core.matching.descent import Regulariser, VictimGroup, no_prior
from fedsim.core.choices import Choice
from fedsim.core.registry import Kind
from fedsim.core.types import Config, Masks, Observation
from fedsim.core.types.configured import ConfiguredMethod


class DistanceConfig(Config):
    """Settings of a distance."""

    weight: float = Field(default=1.0, gt=0, description="factor on the distance")


class PriorConfig(Config):
    """Settings of a prior."""

    weight: float = Field(default=1e-4, ge=0, description="factor on the prior; the distance has weight 1")


DistanceT = TypeVar("DistanceT", bound=DistanceConfig)
PriorT = TypeVar("PriorT", bound=PriorConfig)


class Distance(ConfiguredMethod[DistanceT]):
    """Distance between gradients and observed gradients. Subclasses define `measure`.

    Attributes:
        reads_entries: whether it needs explicit gradients (`ExplicitGradients`), entry by entry.
    """

    reads_entries: bool = False

    def prepare(self, victims: VictimGroup) -> None:
        """Read data from the victims before the first measurement; most distances need none.

        Raises:
            NotApplicable: the victims do not provide it.
        """

    @abstractmethod
    def measure(self, gradients: Any) -> Tensor:
        """Return the distance of each row, shape (R,), from `Gradients` of R rows and T tensors."""

    @final
    def __call__(self, gradients: Gradients) -> Tensor:
        """Return the weighted distance, shape (R,)."""
        weight = self.config.weight
        return self.measure(gradients) if weight == 1.0 else weight * self.measure(gradients)


class Prior(ConfiguredMethod[PriorT]):
    """Penalty on unlikely inputs. Subclasses define `of`."""

    def left_out(self, observation: Observation) -> str | None:
        """Return why the prior does not apply, as a clause, or None if it applies."""
        return None

    @abstractmethod
    def of(self, victims: VictimGroup) -> Regulariser:
        """Return the prior for these victims, without its weight."""


class _Term(Choice):
    """A term by name, or a table of its name and settings."""

    @model_validator(mode="before")
    @classmethod
    def _parse_name(cls, raw: Any) -> Any:
        return {"name": raw} if isinstance(raw, str) else raw


class DistanceChoice(_Term):
    """A distance of `fedsim list distances`."""

    kind: ClassVar[Kind | None] = "distance"


class PriorChoice(_Term):
    """A prior of `fedsim list priors`."""

    kind: ClassVar[Kind | None] = "prior"


def distance_setting(name: str, **settings: Any) -> Any:
    """Return the config field of a distance, with this default."""
    return Field(
        default=DistanceChoice(name=name, settings=settings),
        description="distance of gradients: a name of `fedsim list distances`, or a table with its settings",
    )


def prior_settings(weights: Mapping[str, float], condition: str = "") -> Any:
    """Return the config field of a list of priors, with these weights by default."""
    priors = tuple(PriorChoice(name=name, settings={"weight": weight}) for name, weight in weights.items())
    return Field(default=priors, description=f"tables of a name of `fedsim list priors`, and its weight{condition}")


def sum_of(priors: Sequence[PriorChoice], victims: VictimGroup) -> Regulariser:
    """Return the weighted sum of the priors that apply to the victims."""
    terms = [(p.config.weight, p.of(victims)) for p in _used(priors) if p.left_out(victims.observations[0]) is None]

    def total(inputs: Tensor, masks: Masks, rows: Sequence[int]) -> Tensor:
        return sum((weight * term(inputs, masks, rows) for weight, term in terms), no_prior(inputs, masks, rows))

    return total


def left_out(priors: Sequence[PriorChoice], observation: Observation) -> tuple[str, ...]:
    """Return a remark for each prior that does not apply to an observation."""
    reasons = [(prior.name, prior.left_out(observation)) for prior in _used(priors)]
    return tuple(f"the prior '{name}' is left out: {reason}" for name, reason in reasons if reason is not None)


def _used(priors: Sequence[PriorChoice]) -> Iterator[Prior[Any]]:
    made: Iterator[Prior[Any]] = (choice.make("prior") for choice in priors)
    return (prior for prior in made if prior.config.weight)
