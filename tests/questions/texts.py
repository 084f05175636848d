"""A small federation of texts, for questions about hidden states."""

from typing import Any

from fedsim.experiment.runner import train
from fedsim.questions.base import Evidence
from fedsim.scenario import Scenario
from fedsim.scenario import world as worlds

TEXTS: dict[str, Any] = {
    "data": {"name": "named-news", "length": 24, "words": 300},
    "model": {"name": "tiny-llama", "width": 16, "hidden": 24, "blocks": 2},
    "partition": {"scheme": "by-user"},
    "federation": {"algorithm": "fedsgd", "clients": 8, "batch_size": 2, "rounds": 2},
    "threat": {"rounds": [1, 2], "victims": 8, "keep_updates": False},
}


def evidence_of(scenario: Scenario) -> Evidence:
    return Evidence(worlds.build(scenario), train(worlds.build(scenario), lambda _round: None))
