"""Whom membership attacks judge."""

from typing import Any

import pytest

from fedsim.experiment import runner
from fedsim.questions.membership import observe as membership
from fedsim.questions.membership.types import Target
from fedsim.scenario import world as worlds
from fedsim.threat.replay import replay
from tests.experiment.running import Build
from tests.questions.membership.judged import CANDIDATES, SMALL, Cases


@pytest.fixture
def cases(scenario: Build) -> Cases:
    def build(**tables: Any) -> dict[Target, membership.Case]:
        world = worlds.build(scenario(**{**SMALL, **tables}))
        journal = runner.train(world, lambda _: None)
        truths = [replay(world, entry).truth for entry in journal.entries]
        return {
            "model": membership.observe_model(world, journal, CANDIDATES),
            "update": membership.observe_updates(world, journal, truths, CANDIDATES),
        }

    return build
