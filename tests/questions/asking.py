"""Questions that train apart from the federation, asked without a run."""

from typing import Any

from fedsim.questions.base import Evidence, QuestionContext
from fedsim.record import Finding
from fedsim.scenario import parse
from fedsim.scenario.world import build


def scenario_of(data: str = "breast-cancer", **tables: Any) -> Any:
    """Return a scenario on the rows of a table, with the table of a question."""
    raw = {
        "title": "t",
        "seed": 3,
        "data": {"name": data},
        "model": {"name": "mlp", "width": 4, "depth": 1, "dropout": 0.0},
        "federation": {"clients": 2, "batch_size": 4},
    }
    return parse({**raw, **tables}, "test.toml")


def findings_of(scenario: Any, work: QuestionContext | None = None) -> dict[str, Finding]:
    """Return the findings of a scenario's question by their label."""
    world = build(scenario)
    (question,) = world.questions
    question.check(world)
    every = list(question.run(Evidence(world, None), work or QuestionContext()))  # type: ignore[arg-type]
    return {one.label: one for one in every}
