"""Scenario files: reading, checks, and the objects that they describe.

A TOML file becomes frozen pydantic models. Every error message gives the file, the key, the expected value and the
nearest valid name.
"""

from fedsim.core.choices import Choice
from fedsim.scenario.choices import Aggregation, AttackChoice, ModelChoice
from fedsim.scenario.clients import Federation, LabelNoise, Participation, Partition
from fedsim.scenario.combinations import expand, expand_sweep, with_values
from fedsim.scenario.reading import arms, load, parse
from fedsim.scenario.tables import Scenario
from fedsim.scenario.threat_tables import Scoring, Threat, UnlearningSettings
from fedsim.scenario.variations import SearchRange, Sweep, TrialCountLaw, Tune, Values

__all__ = [
    "Aggregation",
    "AttackChoice",
    "Choice",
    "Federation",
    "LabelNoise",
    "ModelChoice",
    "Participation",
    "Partition",
    "Scenario",
    "Scoring",
    "SearchRange",
    "Sweep",
    "Threat",
    "TrialCountLaw",
    "Tune",
    "UnlearningSettings",
    "Values",
    "arms",
    "expand",
    "expand_sweep",
    "load",
    "parse",
    "with_values",
]
