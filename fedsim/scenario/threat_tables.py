"""Tables of the attacker and the scorer: view, grants, victims, criterion of success."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from fedsim.core.choices import Choice
from fedsim.core.grants import Knowledge, Server, View
from fedsim.core.metric import USUAL
from fedsim.core.settings import Config

if TYPE_CHECKING:  # this module imports numpy
    from fedsim.metrics.success import Rule


class UnlearningSettings(Config):
    """Unlearning requests of clients after the last round, and the method that answers them.

    Attacks on updates then read the server's estimates from the answers, instead of the watched updates.
    """

    method: Choice = Field(description="a component of hook unlearning")
    clients: int = Field(
        default=1, ge=1, description="number of requesting clients: the first by number, each in a separate federation"
    )
    examples: int = Field(default=1, ge=1, description="of each of them, drawn from its share")
    scored_on: Literal["forgotten", "retained"] = Field(
        default="forgotten",
        description="ground truth of the guesses; retained: as many other examples of the client, a control",
    )

    @field_validator("method", mode="before")
    @classmethod
    def _parse_name(cls, raw: Any) -> Any:
        return {"name": raw} if isinstance(raw, str) else raw


class Threat(Config):
    """The server's behaviour, view and knowledge, and the attacked updates."""

    server: Server = Field(
        default="honest-but-curious",
        description="honest-but-curious: follows the protocol; malicious: an attack changes the clients' model",
    )
    view: View = Field(
        default="single-update", description="single-update: every client's; sum: only the mean of a round's updates"
    )
    knows: tuple[Knowledge, ...] = ("labels", "batch-size", "dropout-rates", "input-statistics")
    visible_parameters: tuple[str, ...] = Field(
        default=("*",), min_length=1, description="name patterns of the tensors that the server sees"
    )
    rate_error: float = Field(
        default=0.0, gt=-1, lt=1, description="error of the dropout rates that the attacker assumes"
    )
    rounds: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1,), min_length=1)
    victims: int = Field(
        default=1,
        ge=1,
        description=(
            "clients attacked per round: the first counted updates, by client number; 1 when the server sees sums"
        ),
    )
    keep_updates: bool = Field(
        default=True, description="store the attacked updates, on the wire and before the defenses that change uploads"
    )


class Scoring(Config):
    """The criterion of a successful reconstruction, and the settings of intervals."""

    metric: str = Field(
        default=USUAL,
        description="of an example; `fedsim list metrics` lists all. For texts and table rows, "
        "'identified' means their own recovery metric",
    )
    threshold: float = Field(default=0.5, description="success: beyond it, below where less is better, as of mse")
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=2000, ge=100, description="bootstrap resamples of the victims")
    ideal_attacker: bool = Field(
        default=False,
        description="whether to compute the ideal attacker for each attacked update (seconds per update)",
    )

    @property
    def rule(self) -> Rule:
        """The criterion of a recovered example."""
        from fedsim.metrics.success import Rule  # noqa: PLC0415 - a scenario's keys need no numpy

        return Rule.of(self.metric, self.threshold)
