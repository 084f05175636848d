"""The tables of the attacker and the scorer: what the server sees, who is judged, when a guess counts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fedsim.core.types import Config, Knowledge, Server, View
from fedsim.metrics.success import USUAL
from fedsim.scenario.choices import AttributeChoice, Choice, MembershipChoice


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


class Attributes(Config):
    """Which attributes of the data behind the watched updates are asked for, and by which attacks."""

    public: int = Field(
        default=64,
        ge=2,
        description="changes that the attacker computes of public examples, for each value; at most one an example",
    )
    attacks: tuple[AttributeChoice, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _labels_differ(self) -> Attributes:
        titles = [attack.title for attack in self.attacks]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise ValueError(f"two attacks are reported as '{twice[0]}'. Give one a label")
        return self


class Forgetting(Config):
    """Who asks after the last round that examples be forgotten, and how the federation does that.

    Attacks on updates then read what the server works out of the answer, in place of the watched updates.
    """

    by: Choice = Field(description="a component of hook unlearning")
    clients: int = Field(
        default=1, ge=1, description="who ask: the first, by number, each in a federation that forgets nothing else"
    )
    examples: int = Field(default=1, ge=1, description="of each of them, drawn from its share")
    judged: Literal["forgotten", "staying"] = Field(
        default="forgotten",
        description="what guesses are compared with; staying: as many others of the client, a control",
    )

    @field_validator("by", mode="before")
    @classmethod
    def _by_name(cls, raw: Any) -> Any:
        return {"name": raw} if isinstance(raw, str) else raw


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
    emission: int = Field(
        default=0,
        ge=0,
        description="runs that estimate how likely the model writes any string of a secret's form; 0: none (extra "
        "constrain)",
    )


class Scoring(Config):
    """When a reconstruction counts as a success, and how intervals are drawn."""

    metric: str = Field(
        default=USUAL,
        description="of an example; `fedsim list metrics` names them. Where examples are not identified, as texts and "
        "rows of a table, identified stands for what says of them that they are recovered",
    )
    threshold: float = Field(default=0.5, description="success: beyond it, below where less is better, as of mse")
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=2000, ge=100, description="bootstrap resamples of the victims")
    ceiling: bool = Field(
        default=False,
        description="whether the ideal attacker says what each attacked update holds; takes seconds an update",
    )
