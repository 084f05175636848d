"""Expected results of a scenario's run, not part of the run."""

from __future__ import annotations

from pydantic import Field

from fedsim.core.settings import Config


class ExpectedFigure(Config):
    """Expected metric value of an arm, with its tolerance."""

    arm: str = Field(default="all", description="the arm's name in the record; 'all' without arms")
    attack: str = Field(default="", description="label of the attack, or source of a guarantee; empty: of the arm")
    metric: str = Field(description="as `fedsim expect` names it, for example psnr_median")
    value: float
    low: float | None = Field(default=None, description="lower end of its 95 % interval, for pages")
    high: float | None = Field(default=None, description="upper end")
    tolerance: float = Field(default=0.0, ge=0, description="largest difference that is no departure")


class Measurement(Config):
    """Run of the unchanged scenario that gave the expected figures."""

    date: str = Field(description="UTC, ISO 8601, of the run's start")
    commit: str = Field(default="unknown", description="commit of fedsim's checkout")
    processor: str = "unknown"


class Expected(Config):
    """Metric values and hashes that a run of the unchanged scenario should reproduce."""

    measured: Measurement | None = Field(default=None, description="the run that gave the figures, for pages")
    figures: tuple[ExpectedFigure, ...] = ()
    model_hash: dict[str, str] = Field(
        default_factory=dict, description="arm to the hash of its trained model; bits depend on the processor"
    )
