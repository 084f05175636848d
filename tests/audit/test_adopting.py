"""What is printed to adopt a defense runs, and the next audit has the same defense."""

from typing import Any

import pytest
from torch import nn

from fedsim.audit import Subject
from fedsim.audit.adopting import adoption_lines
from fedsim.audit.record import AuditArm
from fedsim.scenario import Choice


def lines(name: str, *options: tuple[str, Any]) -> tuple[str, ...]:
    settings = Choice(name=name, settings=dict(options)).make("defense").config.model_dump(mode="json")
    return adoption_lines(AuditArm(kind="defense", name="any", defense=name, batch_size=1, settings=settings))


@pytest.mark.parametrize(
    ("name", "options"),
    [("pruning", (("rate", 0.99),)), ("gradient-noise", (("scale", 0.1), ("relative", True))), ("float16", ())],
)
def test_three_lines_make_the_app_and_one_the_subject(name: str, options: tuple[tuple[str, Any], ...]) -> None:
    *app, subject = lines(name, *options)
    assert len(app) == 3
    space: dict[str, Any] = {"Subject": Subject, "model": nn.Linear(1, 1), "loss": None, "loader": None}
    exec("\n".join(app), space)
    assert type(space["app"]).__name__ == "ClientApp"
    (table,) = eval(subject, space).defenses
    assert Choice.model_validate(table).make("defense").config.model_dump() == {
        **Choice(name=name, settings=dict(options)).make("defense").config.model_dump()
    }


def test_what_acts_inside_training_is_no_mod() -> None:
    first, subject = lines("dp-sgd", ("noise_multiplier", 2.0))
    assert first.startswith("# no mod: ")
    assert subject == 'Subject(model, loss, loader, defenses=({"name": "dp-sgd", "noise_multiplier": 2.0},))'
