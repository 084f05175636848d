"""A record knows what attacks came to, and which control is of which attack."""

from fedsim.record import Finding
from fedsim.release.record import ReleaseRecord
from tests.release.records import RARE, figure, record


def test_a_control_is_that_of_its_figure_and_failures_stand_apart() -> None:
    failed = Finding(question="membership", label="rmia", metric="auc", failure="no memory")
    made = record(figure(0.4, 0.5, 0.6), (failed,), figure(0, 0.01, 0.05, metric=RARE, chance_level=0.01))
    assert [one.metric for one in made.attacks] == ["auc", RARE]
    assert [one.label for one in made.failed_findings] == ["rmia"]
    controls = [made.control_of(one) for one in made.attacks]
    assert [(one.role, one.metric, one.chance_level) for one in controls] == [
        ("negative-control", "auc", 0.5),
        ("negative-control", RARE, 0.01),
    ]
    assert [len(made.of(name)) for name in ("membership", "sources")] == [2, 0]
    assert ReleaseRecord.model_validate_json(made.model_dump_json()) == made
