"""A user's policy: thresholds behind a report's verdict and an audit's exit code."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from fedsim.core.errors import FedsimError, did_you_mean
from fedsim.core.settings import Config

Share = Annotated[float, Field(ge=0, le=1)]


class Policy(Config):
    """Upper bounds; an absent bound is not judged."""

    max_recovered: Share | None = Field(
        default=None, description="share of attacked examples that count as successes under [scoring]"
    )
    max_accuracy_loss: Share | None = Field(
        default=None,
        description="test accuracy of the undefended client minus that of the defended, as a fraction; of tags that of "
        "span F1, of sentence embeddings that of the Spearman correlation",
    )
    max_membership_tpr: Share | None = Field(
        default=None, description="members found by the best membership attack at 1 % false positives, as a fraction"
    )
    max_epsilon: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description=("stated epsilon of the weakest guarantee; a defense without a guarantee violates this threshold"),
    )
    findings: dict[str, float] = Field(
        default_factory=dict,
        description="by the name of a metric, the most that any attack of a question may reach, as "
        "attribute_balanced_accuracy = 0.6",
    )

    undecided: Literal["fail", "pass"] = Field(
        default="fail", description="whether an audit fails, with exit code 4, where a threshold is undecided"
    )

    @property
    def is_empty(self) -> bool:
        """Whether nothing is judged."""
        return not self.model_dump(exclude_none=True, exclude_defaults=True, exclude={"undecided"})


def policy_of(project: Path) -> Policy:
    """Return ``[tool.fedsim.policy]`` of a ``pyproject.toml``, or an empty policy without the file or table.

    Raises:
        FedsimError: the file is no TOML, or a threshold is unknown or out of range; the message names the key.
    """
    if not project.is_file():
        return Policy()
    try:
        tables = tomllib.loads(project.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FedsimError(f"{project} is not TOML: {error}.") from error
    stated = tables.get("tool", {}).get("fedsim", {}).get("policy", {})
    try:
        return Policy.model_validate(stated)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        hint = did_you_mean(key, list(Policy.model_fields)) if first["type"] == "extra_forbidden" else ""
        raise FedsimError(f"{project}: tool.fedsim.policy.{key}: {first['msg']}.{hint}") from error
