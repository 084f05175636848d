"""What was tested of a round: the most telling first, without what people are not shown."""

from fedsim.core.metric import Metric
from fedsim.record import RoundRecord

METRICS = {
    "hidden": Metric(name="hidden", title="hidden", meaning="", over="round", shown=False),
    "accuracy": Metric(name="accuracy", title="accuracy", meaning="", over="round", form="percent", digits=1),
    "loss": Metric(name="loss", title="loss", meaning="", over="round", digits=3),
}


def entry(**tested: float) -> RoundRecord:
    return RoundRecord(round=1, cohort=(0, 1), participants=(0, 1), training_loss=0.5, test_metrics=tested)


def test_the_first_that_is_shown_is_the_most_telling() -> None:
    own = entry(hidden=1.0, accuracy=0.913, loss=0.25)
    assert [found.name for found in own.utilities(METRICS)] == ["accuracy", "loss"]
    best = own.utility(METRICS)
    assert best is not None
    assert (best.value, best.text) == (0.913, "91.3%")


def test_nothing_evaluated_is_nothing() -> None:
    assert entry().utility(METRICS) is None
    assert entry(hidden=1.0).utilities(METRICS) == ()
